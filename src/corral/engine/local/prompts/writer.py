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
from dataclasses import dataclass
from itertools import chain
from typing import Any

from corral.engine.local.backend import Vocabulary
from corral.engine.local.prompts.blocks import blocks
from corral.engine.local.prompts.control import ControlTexts
from corral.engine.local.prompts.conversation import Conversation, Shape, shaped
from corral.engine.local.prompts.disguise import Disguise, Wardrobe, mapped, strings
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

ENDING_CHARS = 256

_SPACES = " \t\n\v\f\r"  # what C's isspace() takes away beside a token that strips

Change = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model sees. `ending` is the end of it as text: it says whether a thought has been opened."""

    tokens: list[int]
    ending: str


class PromptWriter:
    """Writes prompts for one model. Pure but for the date; blocks for as long as template and text take.

    Raises TemplateFault if the template does not compile.
    """

    def __init__(self, template: ChatTemplate, vocabulary: Vocabulary) -> None:
        self._template = template
        self._vocabulary = vocabulary
        self._control = ControlTexts(vocabulary.control_texts, vocabulary.user_texts)
        self._user = ControlTexts({}, vocabulary.user_texts)
        self._wardrobe = Wardrobe(self._control, sought(template.syntax))
        self._shape = Shape(knows_developer="developer" in template.source)

    def write(self, request: GenerationRequest, pause: Callable[[], None] = lambda: None) -> Prompt:
        """The prompt of a request. `pause` is called every millisecond or so and may raise.

        Raises InvalidRequest if the template refuses the conversation.
        """
        try:
            return self._write(shaped(request, self._shape), pause)
        except TemplateFault as fault:
            reason = f"the model's chat template refuses this conversation: {fault}"
        except RecursionError:
            reason = "the conversation is nested too deeply"
        except UnicodeEncodeError:
            reason = "the conversation holds half of a surrogate pair, which is no character"
        raise InvalidRequest(reason, param="messages")

    def _write(self, conversation: Conversation, pause: Callable[[], None]) -> Prompt:
        disguise = self._wardrobe.disguise(_strings(conversation))
        text = self._rendered(conversation, disguise.light)
        pause()
        if self._controls(text) != self._controls(self._rendered(conversation, disguise.full_short)):
            text = self._rendered(conversation, disguise.full)
        pause()
        tokens = self._tokens(text, disguise, pause)
        bos = self._vocabulary.bos
        if bos is not None and tokens[:1] != array("i", [bos]):
            tokens.insert(0, bos)
        if not tokens:
            raise InvalidRequest("the conversation renders to an empty prompt", param="messages")
        return Prompt(tokens.tolist(), disguise.reveal(text[-ENDING_CHARS:]))

    def _rendered(self, conversation: Conversation, change: Change) -> str:
        text = self._template.render(
            [_message(message, change) for message in conversation.messages],
            [_typed(tool, change) for tool in conversation.tools],
            add_generation_prompt=True,
            **{name: mapped(value, change) for name, value in conversation.kwargs.items()},
        )
        return text + change(conversation.continued)

    def _controls(self, text: str) -> list[int]:
        return [found.token for found in self._control.find(text)]

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


def _message(message: dict[str, Any], change: Change) -> dict[str, Any]:
    changed = {
        key: value if key == "role" else mapped(value, change)
        for key, value in message.items()
        if key != "tool_calls"
    }
    if "tool_calls" in message:
        changed["tool_calls"] = [_typed(call, change) for call in message["tool_calls"]]
    return changed


def _typed(value: dict[str, Any], change: Change) -> dict[str, Any]:
    """A call or a tool: its `type` and the names of its fields are ours."""
    function = {key: mapped(each, change) for key, each in value["function"].items()}
    changed = {"type": value["type"], "function": function}
    return {"id": change(value["id"]), **changed} if "id" in value else changed


def _strings(conversation: Conversation) -> Iterator[str]:
    yield conversation.continued
    for part in (conversation.messages, conversation.tools, conversation.kwargs):
        yield from strings(part)
