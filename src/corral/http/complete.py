"""`POST /v1/completions`: as `generate`, but for requests of several prompts, which may be token ids."""

import time

import trio
from quart import Quart, Response, g, request

from corral.dialects import Head
from corral.dialects.openai.completions import CompletionCall, CompletionsDialect
from corral.http.asking import about, accept, asked_for, new_id
from corral.http.body import Bodies
from corral.http.connection import enter_for_request, peer_of
from corral.http.generate import streamed, whole
from corral.http.options import HttpOptions
from corral.serving.models import Models
from corral.serving.service import Service
from corral.serving.several import Several

API = "completions"
PATH = "/v1/completions"


def add_completions(app: Quart, models: Models, bodies: Bodies, options: HttpOptions) -> None:
    """Serve it."""
    dialect = CompletionsDialect()

    @app.post(PATH)
    async def completions() -> Response:
        """Continues texts that are no conversations, in the manner of the completions API."""
        async with bodies.received(request) as body:
            call, model = await asked_for(models, bodies, dialect.parse, body)
        id = new_id(dialect.id_prefix)
        abouts = [
            about(id if len(call.requests) == 1 else f"{id}-{number}", API, model, streams=call.wants_stream)
            for number in range(len(call.requests))
        ]
        generations = enter_for_request(
            model.service.open_all(call.requests, g.client, abouts, peer_of(request))
        )
        accept(generations)
        head = Head(id, int(time.time()), model.name, prompt_tokens=0)
        try:
            echoed = await _echoed(call, model.service)
            return await _respond(call, head, echoed, generations, options)
        except Exception:
            generations.failed()  # unless they know better
            raise


async def _respond(
    call: CompletionCall, head: Head, echoed: list[str], generations: Several, options: HttpOptions
) -> Response:
    """As in `generate`."""
    if not call.wants_stream:
        return whole(call.complete(head, echoed, await generations.complete()), generations)
    with trio.move_on_after(0 if generations.is_loading else options.stream_keepalive_s):
        await generations.prepared()
    return streamed(generations, call.stream(head, echoed), options)


async def _echoed(call: CompletionCall, service: Service) -> list[str]:
    """What the texts of each prompt begin with; a checkpoint where that is tokens."""
    echoed = []
    for each in call.requests:
        text = ""
        if call.echoes and each.prompt is not None:
            text = each.prompt.text
            if each.prompt.tokens is not None:
                async with service.texts() as texts:
                    text = b"".join(texts.pieces(each.prompt.tokens)).decode(errors="replace")
        echoed.append(text)
    return echoed
