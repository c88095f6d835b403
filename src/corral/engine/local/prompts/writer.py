"""One prompt: the template writes the conversation, control tokens are told from text, the text is tokenized.

Neither the template nor the messages are trusted. A message's text must never become a control token such as
`<|im_end|>`, or it could end its own turn and speak as somebody else. What is wanted is strict: a request
gives exactly the control tokens that it would give with plain words in place of all its strings.

    1. The template renders the conversation in light disguise (see `disguise`): no control text begins or
       ends in the client's text.
    2. It renders plain words instead: the conversation in full disguise, long texts cut short.
    3. If both have the same control tokens, all of them are the template's, and 1 is the prompt.
    4. If not, a string of the client has made a difference, say by completing a `<|…|>` of the template. Then
       the conversation in full disguise is the prompt: no control text can touch the client's text in it.
"""

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TypeVar

from corral.decoding.formats.history import Mark
from corral.decoding.formats.learn import learn
from corral.engine.local.backend import ChatFormat, Vocabulary
from corral.engine.local.prompts.blocks import blocks
from corral.engine.local.prompts.contract import Prompt
from corral.engine.local.prompts.control import ControlTexts, Found
from corral.engine.local.prompts.conversation import SURROGATE, shaped
from corral.engine.local.prompts.disguise import Disguise, Wardrobe
from corral.errors import InvalidRequest
from corral.request import GenerationRequest, RawPrompt
from corral.templates.environment import ChatTemplate, TemplateFault
from corral.templates.sought import sought

Written = TypeVar("Written")

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""What a model without a template gets, as in llama.cpp."""

ENDING_CHARS = 256  # longer than any generation prompt

_SPACES = " \t\n\v\f\r"  # what C's isspace() takes away beside a token that strips


class PromptWriter:
    """Writes prompts for one model. Pure but for the date; blocks for as long as template and text take.

    `learned` is what its template says of thoughts and calls. Raises TemplateFault if it does not compile.
    """

    def __init__(self, chat_format: ChatFormat, vocabulary: Vocabulary) -> None:
        template = ChatTemplate(
            chat_format.template or CHATML, bos_text=chat_format.bos_text, eos_text=chat_format.eos_text
        )
        self._template = template
        self._vocabulary = vocabulary
        self._control = ControlTexts(vocabulary.control_texts, vocabulary.user_texts)
        self._user = ControlTexts({}, vocabulary.user_texts)
        self._wardrobe = Wardrobe(self._control, sought(template.syntax))
        ends = [text for text, token in vocabulary.control_texts.items() if token in vocabulary.end_tokens]
        self.learned = learn(
            template.render,
            source=template.source,
            vocabulary=frozenset(self._control.tokens),
            end_texts=sorted(ends),
        )

    def write(self, request: GenerationRequest, pause: Callable[[], None] = lambda: None) -> Prompt:
        """The prompt of a request. `pause` is called every millisecond or so and may raise.

        Raises InvalidRequest if the template refuses the conversation.
        """
        if request.prompt is not None:
            return Prompt(self._raw(request.prompt, pause), "")
        return self._checked(partial(self._write, request, pause))

    def text(self, request: GenerationRequest, pause: Callable[[], None] = lambda: None) -> str:
        """A conversation as the template writes it. `pause` and errors as in `write`."""

        def written() -> str:
            text, disguise = self._disguised(request, pause)
            return disguise.reveal(text)

        return self._checked(written)

    def tokens(
        self,
        text: str,
        *,
        adds_special: bool,
        parses_control: bool,
        limit_tokens: int | None = None,
        pause: Callable[[], None] = lambda: None,
    ) -> "array[int]":
        """The tokens of a text, behind the one that prompts begin with where it `adds_special`.

        Where it `parses_control`, names of control tokens in it become those. It is read until it has more
        than `limit_tokens`. `pause` as in `write`.
        """
        found = self._control.find(text) if parses_control else ()
        tokens = self._tokens(text, str, found, pause, limit_tokens)
        if adds_special and self._vocabulary.bos is not None:
            tokens.insert(0, self._vocabulary.bos)
        return tokens

    def inputs(
        self, texts: Sequence[str], limit_tokens: int, pause: Callable[[], None] = lambda: None
    ) -> "list[array[int]]":
        """The tokens of texts to be embedded, each between those that belong around it.

        Each is read until it has more than `limit_tokens`. `pause` as in `write`. Raises
        InvalidRequest for half of a surrogate pair.
        """
        closers = array("i", self._vocabulary.closers)
        try:
            return [
                self.tokens(
                    text, adds_special=True, parses_control=False, limit_tokens=limit_tokens, pause=pause
                )
                + closers
                for text in texts
            ]
        except UnicodeEncodeError:
            raise InvalidRequest(SURROGATE, param="input") from None

    def _raw(self, prompt: RawPrompt, pause: Callable[[], None]) -> "array[int]":
        if prompt.tokens is not None:
            tokens = array("i", prompt.tokens)
        elif prompt.suffix is None:
            tokens = self.tokens(
                prompt.text, adds_special=True, parses_control=prompt.parses_control, pause=pause
            )
        else:
            tokens = self._infilled(prompt, prompt.suffix, pause)
        if not tokens:
            raise InvalidRequest("the prompt is empty", param="prompt")
        return tokens

    def _infilled(self, prompt: RawPrompt, suffix: str, pause: Callable[[], None]) -> "array[int]":
        infill = self._vocabulary.infill
        if infill is None:
            what = "this model has no tokens for filling in the middle, which 'suffix' needs"
            raise InvalidRequest(what, param="suffix")
        before, after = (
            self.tokens(text, adds_special=False, parses_control=prompt.parses_control, pause=pause)
            for text in (prompt.text, suffix)
        )
        bos = [] if self._vocabulary.bos is None else [self._vocabulary.bos]
        tokens = array("i", [*bos, infill.prefix])
        tokens += before
        tokens.append(infill.suffix)
        tokens += after
        tokens.append(infill.middle)
        return tokens

    def _checked(self, write: Callable[[], Written]) -> Written:
        try:
            return write()
        except TemplateFault as fault:
            reason = f"the model's chat template refuses this conversation: {fault}"
        except RecursionError:
            reason = "the conversation is nested too deeply"
        except UnicodeEncodeError:
            reason = SURROGATE
        raise InvalidRequest(reason, param="messages")

    def _write(self, request: GenerationRequest, pause: Callable[[], None]) -> Prompt:
        try:
            text, disguise = self._disguised(request, pause)
        except TemplateFault:
            # It may want to see that there were calls, where it is shown a text.
            messages = tuple(replace(message, verbatim=()) for message in request.messages)
            if messages == request.messages:
                raise
            text, disguise = self._disguised(replace(request, messages=messages), pause)
        tokens = self._tokens(text, disguise.reveal, self._control.find(text), pause)
        bos = self._vocabulary.bos
        if bos is not None and tokens[:1] != array("i", [bos]):
            tokens.insert(0, bos)
        if not tokens:
            raise InvalidRequest("the conversation renders to an empty prompt", param="messages")
        return Prompt(tokens, disguise.reveal(text[-ENDING_CHARS:]))

    def _disguised(self, request: GenerationRequest, pause: Callable[[], None]) -> tuple[str, Disguise]:
        texts: list[str] = []

        def note(text: str) -> str:
            pause()
            texts.append(text)
            return text

        shaped(request, self.learned, note)
        disguise = self._wardrobe.disguise(texts)
        text = self._rendered(request, disguise.light, pause)
        plain = self._rendered(request, disguise.full_short, pause)
        if self._controls(text, pause) != self._controls(plain, pause):
            text = self._rendered(request, disguise.full, pause)
        return text, disguise

    def _rendered(self, request: GenerationRequest, mark: Mark, pause: Callable[[], None]) -> str:
        def paced(text: str) -> str:
            pause()
            return mark(text)

        conversation = shaped(request, self.learned, paced)
        text = self._template.write(
            conversation.messages, conversation.tools, conversation.kwargs, pause=pause
        )
        if request.thinking.is_on is False:
            text += self._thought_end(text)
        return text + (conversation.continued or "")

    def _thought_end(self, text: str) -> str:
        """What ends all thinking behind a prompt, where the template has not done so."""
        thought, prompts = self.learned.format.thought, self.learned.prompts
        if thought is None:
            return ""
        match prompts.state(text[-ENDING_CHARS:], thought):
            case "open":
                return thought.closer
            case "free" if prompts.switch_off is None:
                return thought.opener + thought.closer
            case _:
                return ""

    def _controls(self, text: str, pause: Callable[[], None]) -> list[int]:
        tokens = []
        for found in self._control.find(text):
            pause()
            tokens.append(found.token)
        return tokens

    def _tokens(
        self,
        text: str,
        reveal: Mark,
        controls: Iterable[Found],
        pause: Callable[[], None],
        limit_tokens: int | None = None,
    ) -> "array[int]":
        tokens: array[int] = array("i")
        strips_left, strips_right = self._vocabulary.strips_left, self._vocabulary.strips_right
        end, is_stripped = 0, False
        for found in chain(controls, [None]):
            plain = reveal(text[end : found.start if found else None])
            if is_stripped:
                plain = plain.lstrip(_SPACES)
            if found and found.token in strips_left:
                plain = plain.rstrip(_SPACES)
            is_first = True
            for part in self._harmless(plain):
                for block in blocks(part):
                    pause()
                    if limit_tokens is not None and len(tokens) > limit_tokens:
                        return tokens
                    tokens.extend(
                        self._vocabulary.tokenize(block, parse_control=False, continues=not is_first)
                    )
                    is_first = False
            if found:
                tokens.append(found.token)
                end, is_stripped = found.end, found.token in strips_right
        return tokens

    def _harmless(self, plain: str) -> Iterator[str]:
        """The text, cut inside of what the tokenizer would take for a user-defined token by itself."""
        start = 0
        for found in self._user.find(plain):
            yield plain[start : found.start + 1]
            start = found.start + 1
        if start < len(plain):
            yield plain[start:]
