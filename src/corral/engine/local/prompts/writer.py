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
from collections.abc import Callable, Iterator
from itertools import chain

from corral.decoding.formats.history import Mark
from corral.decoding.formats.learn import learn
from corral.engine.local.backend import ChatFormat, Vocabulary
from corral.engine.local.prompts.blocks import blocks
from corral.engine.local.prompts.contract import Prompt
from corral.engine.local.prompts.control import ControlTexts
from corral.engine.local.prompts.conversation import SURROGATE, shaped
from corral.engine.local.prompts.disguise import Disguise, Wardrobe
from corral.errors import InvalidRequest
from corral.request import GenerationRequest
from corral.templates.environment import ChatTemplate, TemplateFault
from corral.templates.sought import sought

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
        try:
            return self._write(request, pause)
        except TemplateFault as fault:
            reason = f"the model's chat template refuses this conversation: {fault}"
        except RecursionError:
            reason = "the conversation is nested too deeply"
        except UnicodeEncodeError:
            reason = SURROGATE
        raise InvalidRequest(reason, param="messages")

    def _write(self, request: GenerationRequest, pause: Callable[[], None]) -> Prompt:
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
        tokens = self._tokens(text, disguise, pause)
        bos = self._vocabulary.bos
        if bos is not None and tokens[:1] != array("i", [bos]):
            tokens.insert(0, bos)
        if not tokens:
            raise InvalidRequest("the conversation renders to an empty prompt", param="messages")
        return Prompt(tokens, disguise.reveal(text[-ENDING_CHARS:]))

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

    def _tokens(self, text: str, disguise: Disguise, pause: Callable[[], None]) -> "array[int]":
        tokens: array[int] = array("i")
        strips_left, strips_right = self._vocabulary.strips_left, self._vocabulary.strips_right
        end, is_stripped = 0, False
        for found in chain(self._control.find(text), [None]):
            plain = disguise.reveal(text[end : found.start if found else None])
            if is_stripped:
                plain = plain.lstrip(_SPACES)
            if found and found.token in strips_left:
                plain = plain.rstrip(_SPACES)
            is_first = True
            for part in self._harmless(plain):
                for block in blocks(part):
                    pause()
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
