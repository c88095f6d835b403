"""What clients and load balancers ask of the server itself: models, properties, health."""

from datetime import UTC, datetime

from quart import Quart, Response, request

from corral import __version__
from corral.http.marks import Access, access, marks_of
from corral.http.options import HttpOptions
from corral.http.replies import json_reply
from corral.serving.models import Model, Models
from corral.watching.watch import Watching


def add_models(app: Quart, models: Models) -> None:
    """The models there are, as OpenAI and Anthropic list models: their fields do not clash."""

    @app.get("/v1/models")
    async def list_models() -> Response:
        """The models, in a list that OpenAI's clients can read, and Anthropic's."""
        data = [_model(model) for model in models]
        page = {"first_id": data[0]["id"], "last_id": data[-1]["id"], "has_more": False}
        return json_reply({"object": "list", "data": data, **page})

    @app.get("/v1/models/<path:name>")
    async def model(name: str) -> Response:
        """One model of that list."""
        return json_reply(_model(models.named(name)))


def add_props(app: Quart, models: Models, options: HttpOptions) -> None:
    """What the server is; call it at any time: the routes are looked up when somebody asks."""

    @app.get("/props")
    async def props() -> Response:
        """What this server is, and every route it has; of several models what `?model=` names."""
        return json_reply(_props(app, models, models.asked_for(request.args.get("model")), options))


def add_health(app: Quart, models: Models, watching: Watching) -> None:
    """What a load balancer asks."""

    @app.get("/health")
    @access(Access.PUBLIC)
    async def health() -> Response:
        """200 while requests are taken and answered; else 503 and why not."""
        if models.failure is not None:
            return json_reply({"status": "failed", "message": models.failure.message}, status=503)
        if models.is_draining:
            return json_reply({"status": "draining"}, status=503)
        if watching.stall.is_stalled:
            age_s = round(watching.stall.step_age_s or 0.0, 1)
            return json_reply({"status": "stalled", "step_age_s": age_s}, status=503)
        return json_reply({"status": "ok"})


def _model(model: Model) -> dict[str, object]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created_s,
        "owned_by": "corral",
        "type": "model",
        "display_name": model.name,
        "created_at": datetime.fromtimestamp(model.created_s, UTC).isoformat(),
        "max_model_len": model.service.capacity.request_ctx_tokens,
    }


def _props(app: Quart, models: Models, model: Model, options: HttpOptions) -> dict[str, object]:
    service, routes = model.service, []
    paths = {rule.rule for rule in app.url_map.iter_rules()}
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: rule.rule):
        if f"/v1{rule.rule}" in paths:
            continue  # the same again
        view = app.view_functions[rule.endpoint]
        routes.append(
            {
                "path": rule.rule,
                "methods": sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}),
                "access": marks_of(view).access.name.lower(),
                "about": (view.__doc__ or "").partition("\n")[0],
            }
        )
    return {
        "server": "corral",
        "version": __version__,
        "model": model.name,
        "models": [each.name for each in models],
        "slots": service.capacity.slots,
        "ctx_tokens": service.capacity.ctx_tokens,
        "request_ctx_tokens": service.capacity.request_ctx_tokens,
        "keepalive_s": options.stream_keepalive_s,
        "body_limit_bytes": options.body_limit_bytes,
        "needs_api_key": bool(options.api_keys),
        # As llama-server has them, for the clients that read it there. Of the model's path, the name.
        "build_info": f"corral-{__version__}",
        "model_alias": model.name,
        "model_path": model.name,
        "total_slots": service.capacity.slots,
        "default_generation_settings": {"n_ctx": service.capacity.request_ctx_tokens},
        "modalities": {"vision": False, "audio": False},
        "chat_template": service.chat_template,
        "format": service.learned,
        "embedding": service.embedding,
        "routes": routes,
    }
