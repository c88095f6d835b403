"""The routes that tell of texts and tokens, and generate nothing."""

from quart import Quart, Response, g, request

from corral.dialects import llama_server
from corral.errors import InvalidRequest
from corral.http.body import Bodies
from corral.http.replies import JSON
from corral.serving.service import Service


def add_texts(app: Quart, service: Service, bodies: Bodies) -> None:
    """What llama-server has of them."""

    @app.post("/tokenize")
    async def tokenize() -> Response:
        """The tokens of a text."""
        async with bodies.received(request) as body:
            asked = await bodies.parse(llama_server.parse_tokenize, body)
        tokens = await _tokens(service, asked)
        pieces = service.texts.pieces(tokens) if asked.with_pieces else None
        return Response(llama_server.tokenized(tokens, pieces), content_type=JSON)

    @app.post("/detokenize")
    async def detokenize() -> Response:
        """The text of tokens."""
        async with bodies.received(request) as body:
            tokens = await bodies.parse(llama_server.parse_detokenize, body)
        if len(tokens) > service.capacity.request_ctx_tokens:
            message = f"more than {service.capacity.request_ctx_tokens} tokens are not taken here"
            raise InvalidRequest(message, param="tokens")
        return Response(llama_server.detokenized(service.texts.pieces(tokens)), content_type=JSON)

    @app.post("/apply-template")
    async def apply_template() -> Response:
        """A conversation as the model's template writes it."""
        async with bodies.received(request) as body:
            asked = await bodies.parse(llama_server.parse_conversation, body)
        prompt = await service.texts.prompt(asked, client=g.client)
        return Response(llama_server.applied(prompt), content_type=JSON)


async def _tokens(service: Service, asked: llama_server.Tokenize) -> list[int]:
    """Of a list, the texts are tokenized one by one; its tokens stand for themselves."""
    parts = asked.parts
    if len(parts) > service.capacity.request_ctx_tokens:
        raise InvalidRequest("a list of so many parts is not taken here", param="content")
    tokens: list[int] = []
    for number, part in enumerate(parts):
        if isinstance(part, int):
            tokens.append(part)
        else:
            tokens += await service.texts.tokens(
                part,
                client=g.client,
                adds_special=asked.add_special and number == 0,
                parses_control=asked.parse_special,
            )
    return tokens
