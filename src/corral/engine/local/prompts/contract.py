"""What the engine needs to have prompts written, whoever writes them."""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from corral.decoding.formats.learn import Learned
from corral.request import GenerationRequest


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model sees, at least one token.

    `ending` is how it ends as text, some 256 characters: it says whether a thought has been opened.
    """

    tokens: "array[int]"
    ending: str


class Prompts(Protocol):
    """Writes prompts off the event loop."""

    async def ready(self) -> Learned:
        """Wait until prompts can be written; before `run`, once. Returns what the model's template says.

        Raises StartupError if no prompt can be written.
        """
        ...

    async def run(self) -> None:
        """Own whatever writes them until cancelled."""
        ...

    async def prompt(self, request: GenerationRequest, *, client: str, limit_tokens: int) -> Prompt:
        """The prompt of a request, in the client's turn.

        Cancelling it leaves at once, and what is being done for it ends soon after. Raises InvalidRequest if
        the conversation cannot be written, ContextExceeded if it has more tokens than `limit_tokens`.
        """
        ...

    async def text(self, request: GenerationRequest, *, client: str) -> str:
        """A conversation as the model's template writes it; turns, cancelling and errors as of `prompt`."""
        ...

    async def tokens(
        self, text: str, *, client: str, adds_special: bool, parses_control: bool
    ) -> "array[int]":
        """The tokens of a text, in the client's turn; cancelling as of `prompt`. Raises InvalidRequest.

        It begins as prompts do where it `adds_special`, and names of control tokens in it become those where
        it `parses_control`.
        """
        ...

    async def inputs(self, texts: Sequence[str], *, client: str, limit_tokens: int) -> "list[array[int]]":
        """The tokens of texts to be embedded, all in one turn of the client; cancelling as of `prompt`.

        Each is between the tokens that belong around it. One of more than `limit_tokens` is not read to its
        end, but has more of them. Raises InvalidRequest.
        """
        ...

    def close(self) -> None:
        """End what was started, if `run` does not; harmless after it."""
        ...
