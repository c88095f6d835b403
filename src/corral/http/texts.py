"""The routes that tell of texts and tokens, and generate nothing."""

from collections.abc import Awaitable, Callable

from quart import Quart, Response, g, request

from corral.dialects import llama_server
from corral.errors import InvalidRequest
from corral.http.asking import asked_for, told_by
from corral.http.body import Bodies
from corral.http.replies import JSON
from corral.serving.models import Models


def add_texts(app: Quart, models: Models, bodies: Bodies) -> None:
    """What llama-server has of them."""

    @app.post("/tokenize")
    async def tokenize() -> Response:
        """The tokens of a text."""
        async with bodies.received(request) as body:
            asked, model = await asked_for(models, bodies, told_by(llama_server.parse_tokenize), body)
        async with model.service.texts() as texts:
            tokens = await _tokens(texts.tokens, asked, model.service.capacity.request_ctx_tokens)
            pieces = texts.pieces(tokens) if asked.with_pieces else None
        return Response(llama_server.tokenized(tokens, pieces), content_type=JSON)

    @app.post("/detokenize")
    async def detokenize() -> Response:
        """The text of tokens."""
        async with bodies.received(request) as body:
            tokens, model = await asked_for(models, bodies, told_by(llama_server.parse_detokenize), body)
        async with model.service.texts() as texts:
            if len(tokens) > (limit := model.service.capacity.request_ctx_tokens):
                raise InvalidRequest(f"more than {limit} tokens are not taken here", param="tokens")
            pieces = texts.pieces(tokens)
        return Response(llama_server.detokenized(pieces), content_type=JSON)

    @app.post("/apply-template")
    async def apply_template() -> Response:
        """A conversation as the model's template writes it."""
        async with bodies.received(request) as body:
            asked, model = await asked_for(models, bodies, told_by(llama_server.parse_conversation), body)
        async with model.service.texts() as texts:
            prompt = await texts.prompt(asked, client=g.client)
        return Response(llama_server.applied(prompt), content_type=JSON)


async def _tokens(
    tokens_of: Callable[..., Awaitable[list[int]]], asked: llama_server.Tokenize, limit_tokens: int
) -> list[int]:
    """Of a list, the texts are tokenized one by one; its tokens stand for themselves."""
    parts = asked.parts
    if len(parts) > limit_tokens:
        raise InvalidRequest("a list of so many parts is not taken here", param="content")
    tokens: list[int] = []
    for number, part in enumerate(parts):
        if isinstance(part, int):
            tokens.append(part)
        else:
            tokens += await tokens_of(
                part,
                client=g.client,
                adds_special=asked.add_special and number == 0,
                parses_control=asked.parse_special,
            )
    return tokens
