"""What the local engine tells of texts and tokens; see contract.Texts."""

from collections.abc import Sequence

from corral.engine.local.backend import Vocabulary
from corral.engine.local.prompts import bounds
from corral.engine.local.prompts.contract import Prompts
from corral.errors import InvalidRequest
from corral.request import GenerationRequest


class LocalTexts:
    """Asks who writes the prompts. A text that no prompt could hold is refused (`Capacity.prompt_bytes`)."""

    def __init__(
        self, prompts: Prompts, vocabulary: Vocabulary, *, limit_tokens: int, limit_bytes: int
    ) -> None:
        self._prompts = prompts
        self._pieces = vocabulary.pieces
        self._names = {token: text.encode() for text, token in vocabulary.control_texts.items()}
        self._limit_tokens = limit_tokens
        self._limit_bytes = limit_bytes

    async def tokens(self, text: str, *, client: str, adds_special: bool, parses_control: bool) -> list[int]:
        """The tokens of a text. Raises InvalidRequest."""
        if len(text.encode()) > self._limit_bytes:
            message = (
                f"a text of more than {self._limit_bytes} bytes is not taken here: no prompt could hold it"
            )
            raise InvalidRequest(message, param="content")
        tokens = await self._prompts.tokens(
            text, client=client, adds_special=adds_special, parses_control=parses_control
        )
        return tokens.tolist()

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """What each stands for. Raises InvalidRequest."""
        known = len(self._pieces)
        for token in tokens:
            if not 0 <= token < known:
                raise InvalidRequest(f"token {token} is not one of the model's {known}", param="tokens")
        return [self._pieces[token] or self._names.get(token, b"") for token in tokens]

    async def prompt(self, request: GenerationRequest, *, client: str) -> str:
        """A conversation as the template writes it. Raises InvalidRequest or ContextExceeded."""
        longest_token_bytes = self._limit_bytes // self._limit_tokens
        bounds.check(request, limit_tokens=self._limit_tokens, longest_token_bytes=longest_token_bytes)
        return await self._prompts.text(request, client=client)
