"""`POST /v1/completions`: as `generate`, but for requests of several prompts, which may be token ids."""

import secrets
import time
from functools import partial

import trio
from quart import Quart, Response, g, request

from corral.books.record import About
from corral.dialects import Head
from corral.dialects.openai.completions import CompletionCall, CompletionsDialect
from corral.http.body import Bodies
from corral.http.connection import enter_for_request, peer_of
from corral.http.generate import headers_of, streamed, whole
from corral.http.options import HttpOptions, ModelCard
from corral.serving.service import Service
from corral.serving.several import Several

API = "completions"
PATH = "/v1/completions"


def add_completions(
    app: Quart, service: Service, bodies: Bodies, card: ModelCard, options: HttpOptions
) -> None:
    """Serve it."""
    dialect = CompletionsDialect()

    @app.post(PATH)
    async def completions() -> Response:
        """Continues texts that are no conversations, in the manner of the completions API."""
        async with bodies.received(request) as body:
            parse = partial(dialect.parse, headers=headers_of(request), client=g.client)
            call = await bodies.parse(parse, body)
        id = f"{dialect.id_prefix}{secrets.token_hex(12)}"
        abouts = [
            About(
                id=id if len(call.requests) == 1 else f"{id}-{number}",
                api=API,
                model=card.name,
                streams=call.wants_stream,
                address=request.remote_addr or "",
                request_id=g.request_id,
            )
            for number in range(len(call.requests))
        ]
        generations = enter_for_request(service.open_all(call.requests, g.client, abouts, peer_of(request)))
        g.is_accepted = True
        head = Head(id, int(time.time()), card.name, prompt_tokens=0)
        try:
            return await _respond(call, head, _echoed(call, service), generations, options)
        except Exception:
            generations.failed()  # unless they know better
            raise


async def _respond(
    call: CompletionCall, head: Head, echoed: list[str], generations: Several, options: HttpOptions
) -> Response:
    """As in `generate`."""
    if not call.wants_stream:
        return whole(call.complete(head, echoed, await generations.complete()), generations)
    with trio.move_on_after(options.stream_keepalive_s):
        await generations.prepared()
    return streamed(generations, call.stream(head, echoed), options)


def _echoed(call: CompletionCall, service: Service) -> list[str]:
    """What the texts of each prompt begin with."""
    echoed = []
    for each in call.requests:
        text = ""
        if call.echoes and each.prompt is not None:
            text = each.prompt.text
            if each.prompt.tokens is not None:
                text = b"".join(service.texts.pieces(each.prompt.tokens)).decode(errors="replace")
        echoed.append(text)
    return echoed
