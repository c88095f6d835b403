"""Texts that are to be embedded, before they reach the engine's thread: refused, or as tokens."""

from collections.abc import Iterator, Sequence

from corral.engine.contract import Embedding
from corral.engine.local.backend import EmbedShape
from corral.engine.local.prompts.contract import Prompts
from corral.errors import ContextExceeded, InvalidRequest, inputs_too_long
from corral.request import EMBED_TOKENS, Embed

TURN_BYTES = 32 * 2**10
"""Of text that is tokenized in one turn of its client: some milliseconds."""

READ_CHARS = 256
"""Of a text for a model that only reads, a token may stand for so many in the mean. Words have ten or so, but
blanks, or letters that the model does not know, could go on for megabytes and take seconds."""

NO_POOLING = (
    "this model makes no vectors as this server runs it: its file does not say how those of a text's tokens "
    "become one. Start the server with --pooling mean or --pooling last"
)


class Inputs:
    """What an embedder of this shape takes, for a model of so many tokens, the longest of so many bytes.

    One that `reads_only` is BERT or its like: a word that it does not know is one token, however long, and
    blanks are none. So nothing is known of a text's tokens before they are there.
    """

    def __init__(
        self,
        shape: EmbedShape | None,
        prompts: Prompts,
        *,
        known_tokens: int,
        longest_token_bytes: int,
        reads_only: bool,
    ) -> None:
        self._shape = shape
        self._prompts = prompts
        self._known_tokens = known_tokens
        self._longest_token_bytes = longest_token_bytes
        self._reads_only = reads_only

    @property
    def embedding(self) -> Embedding | None:
        """What comes of them."""
        shape = self._shape
        if shape is None:
            return None
        return Embedding(shape.dimensions, shape.input_tokens, shape.pooling, reads_only=self._reads_only)

    def dimensions(self, embed: Embed) -> int:
        """How many numbers of a vector are wanted."""
        assert self._shape is not None
        return embed.dimensions or self._shape.dimensions

    def check(self, embed: Embed) -> None:
        """As `Engine.check`."""
        if self._shape is None:
            raise InvalidRequest(NO_POOLING, param="model")
        if self.dimensions(embed) > self._shape.dimensions:
            message = (
                f"this model's vectors have {self._shape.dimensions} dimensions, fewer than are asked for"
            )
            raise InvalidRequest(message, param="dimensions")
        least = 0
        for number, prompt in enumerate(embed.inputs):
            if prompt.tokens is not None:
                self._check_length(embed, number, len(prompt.tokens))
                least += len(prompt.tokens)
            elif not self._reads_only:
                # No fewer bytes than characters; how many more would cost a copy of all texts to know.
                fewest = -(-len(prompt.text) // self._longest_token_bytes)
                self._check_length(embed, number, fewest, "at least ")
                least += fewest
            elif len(prompt.text) > (most := READ_CHARS * self._shape.input_tokens):
                message = f"this model takes no text of more than {most} characters"
                raise InvalidRequest(message, param=_param(embed, number))
        _check_total(least)
        for number, prompt in enumerate(embed.inputs):
            if (highest := max(prompt.tokens or (), default=0)) >= self._known_tokens:
                message = f"token {highest} is not one of the model's {self._known_tokens}"
                raise InvalidRequest(message, param=_param(embed, number))

    async def tokens(self, embed: Embed, *, client: str) -> Sequence[Sequence[int]]:
        """Of all inputs that were checked, in their order; cancelling and errors as of `Engine.prepare`."""
        found: dict[int, Sequence[int]] = {
            number: prompt.tokens for number, prompt in enumerate(embed.inputs) if prompt.tokens is not None
        }
        total = sum(map(len, found.values()))
        assert self._shape is not None
        limit = self._shape.input_tokens
        for turn in _turns(embed):
            texts = [embed.inputs[number].text for number in turn]
            found_now = await self._prompts.inputs(texts, client=client, limit_tokens=limit)
            for number, tokens in zip(turn, found_now, strict=True):
                self._check_length(embed, number, len(tokens), "at least ")
                if not tokens:
                    message = "this model has no token for this input"
                    raise InvalidRequest(message, param=_param(embed, number))
                found[number] = tokens
                total += len(tokens)
            _check_total(total)
        return [found[number] for number in range(len(embed.inputs))]

    def _check_length(self, embed: Embed, number: int, tokens: int, about: str = "") -> None:
        assert self._shape is not None
        if tokens > self._shape.input_tokens:
            limit = self._shape.input_tokens
            raise ContextExceeded(
                f"this model takes inputs of at most {limit} tokens, and this one has {about}{tokens}",
                prompt_tokens=tokens,
                limit_tokens=limit,
                param=_param(embed, number),
            )


def _check_total(tokens: int) -> None:
    if tokens > EMBED_TOKENS:
        raise inputs_too_long(tokens, EMBED_TOKENS)


def _turns(embed: Embed) -> Iterator[list[int]]:
    """The numbers of the inputs that are texts, as many together as fit into a turn."""
    turn: list[int] = []
    size = 0
    for number, prompt in enumerate(embed.inputs):
        if prompt.tokens is not None:
            continue
        if turn and size + len(prompt.text) > TURN_BYTES:
            yield turn
            turn, size = [], 0
        turn.append(number)
        size += len(prompt.text)
    if turn:
        yield turn


def _param(embed: Embed, number: int) -> str:
    return "input" if len(embed.inputs) == 1 else f"input[{number}]"
