"""What else there is of the Responses API: responses that are kept, and the length of a prompt.

    GET, DELETE /v1/responses/{id}     POST /v1/responses/{id}/cancel     GET /v1/responses/{id}/input_items
    POST /v1/responses/input_tokens

A response is there while it is streamed and, unless `store` is false, when it has ended. Whoever asks for it
must be the client that it was for.

Source: https://platform.openai.com/docs/api-reference/responses.
"""

from collections.abc import Callable, Mapping

import msgspec

from corral.dialects import Headers
from corral.dialects.openai.errors import OpenAIErrors
from corral.dialects.openai.responses import ResponsesDialect
from corral.dialects.openai.responses_store import ResponsesStore, Running, Stored
from corral.errors import InvalidRequest, NotFound
from corral.request import GenerationRequest

PAGE_ITEMS, MOST_ITEMS = 20, 100


class _Deleted(msgspec.Struct, gc=False):
    id: str
    object: str = "response.deleted"
    deleted: bool = True


class _ItemId(msgspec.Struct):
    id: str


class _ItemList(msgspec.Struct, gc=False, tag_field="object", tag="list"):
    data: list[msgspec.Raw]
    first_id: str | None
    last_id: str | None
    has_more: bool


class _InputTokens(msgspec.Struct, gc=False, tag_field="object", tag="response.input_tokens"):
    input_tokens: int


class KeptResponses(OpenAIErrors):
    """Responses by their ids; a `Keeper`."""

    def __init__(self, store: ResponsesStore) -> None:
        self._store = store

    def kept(
        self, id: str, client: str, query: Mapping[str, str], is_running: Callable[[str], bool]
    ) -> bytes:
        if query.get("stream", "false").lower() not in ("false", "0"):
            raise InvalidRequest("Only responses in the background can be streamed anew.", param="stream")
        if (stored := self._store.find(client, id)) is not None:
            return stored.body
        running = self._running(id, client)
        # What is over may still be in memory until the collector comes by.
        if running is None or not running.may_be_kept or not is_running(id):
            raise _not_found(id)
        return running.so_far(is_cancelled=False)

    def forgotten(self, id: str, client: str) -> bytes:
        if not self._store.remove(client, id):
            raise _not_found(id)
        return msgspec.json.encode(_Deleted(id))

    def inputs(self, id: str, client: str, query: Mapping[str, str]) -> bytes:
        stored = self._store.find(client, id)
        if stored is None:
            raise _not_found(id)
        items = _inputs(stored)
        order = query.get("order", "desc")
        if order not in ("asc", "desc"):
            raise InvalidRequest("'order' is asc or desc.", param="order")
        if order == "desc":
            items.reverse()
        if (after := query.get("after")) is not None:
            place = next((place for place, (item_id, _) in enumerate(items) if item_id == after), None)
            if place is None:
                raise InvalidRequest(f"There is no item {after!r} in this response.", param="after")
            items = items[place + 1 :]
        limit = _limit(query)
        page = items[:limit]
        return msgspec.json.encode(
            _ItemList(
                [raw for _, raw in page],
                page[0][0] if page else None,
                page[-1][0] if page else None,
                len(items) > limit,
            )
        )

    def cancelled(self, id: str, client: str, cancel: Callable[[str], bool]) -> bytes:
        if (stored := self._store.find(client, id)) is not None:
            return stored.body
        running = self._running(id, client)
        if running is None:
            raise _not_found(id)
        return running.so_far(is_cancelled=cancel(id))

    def _running(self, id: str, client: str) -> Running | None:
        running = self._store.running.get(id)
        return running if running is not None and running.client == client else None


class InputTokensDialect(OpenAIErrors):
    """How long a prompt is; a `Counter`. It takes what a request for a response takes."""

    prompt_param = "input"

    def __init__(self, responses: ResponsesDialect) -> None:
        self._responses = responses

    def parse(self, body: bytes, headers: Headers, client: str) -> GenerationRequest:
        return self._responses.parse(body, headers, client).request

    def told(self, prompt_tokens: int) -> bytes:
        return msgspec.json.encode(_InputTokens(prompt_tokens))


def _inputs(stored: Stored) -> list[tuple[str, msgspec.Raw]]:
    """Everything that the model was given, by id: the conversation before, then what was asked."""
    *before, own = stored.turns
    texts = [text for turn in before for text in (turn.asked, turn.said)]
    raws = [raw for text in (*texts, own.asked) for raw in msgspec.json.decode(text, type=list[msgspec.Raw])]
    return [(msgspec.json.decode(raw, type=_ItemId).id, raw) for raw in raws]


def _limit(query: Mapping[str, str]) -> int:
    given = query.get("limit", str(PAGE_ITEMS))
    if not given.isascii() or not given.isdecimal() or not 1 <= int(given) <= MOST_ITEMS:
        raise InvalidRequest(f"'limit' is 1 to {MOST_ITEMS}.", param="limit")
    return int(given)


def _not_found(id: str) -> NotFound:
    return NotFound(f"Response with id '{id}' not found.")
