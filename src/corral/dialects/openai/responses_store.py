"""Responses that are over, for those who go on from them: bounded in bytes and in time, each client's own.

A response is kept as the JSON that its client got, and the conversation up to it as turns of JSON; what that
takes is what is counted. Responses of one conversation share its turns. When it becomes too much, the client
that holds the most loses its oldest response: nobody's conversations can be pushed out by somebody else's.

All of it may be called from any thread: large bodies are parsed in one.
"""

import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final, Protocol

ENTRY_BYTES: Final = 1024
"""What a response or a turn takes beside its JSON, rounded up."""


@dataclass(slots=True, eq=False)
class Turn:
    """What a response added to its conversation, as JSON arrays of items, and the ids of these."""

    asked: bytes
    said: bytes
    item_ids: tuple[str, ...]
    holders: int = 0
    """How many responses that are kept have it in their conversation."""

    @property
    def size_bytes(self) -> int:
        return ENTRY_BYTES + len(self.asked) + len(self.said)


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A response as its client got it, and the conversation up to it; the last turn is its own."""

    body: bytes
    turns: tuple[Turn, ...]
    expires_s: float

    @property
    def size_bytes(self) -> int:
        """Without its turns."""
        return ENTRY_BYTES + len(self.body) + 8 * len(self.turns)


class Running(Protocol):
    """A response that is being told."""

    client: str

    def so_far(self, *, is_cancelled: bool) -> bytes:
        """The response object."""
        ...

    @property
    def may_be_kept(self) -> bool: ...


@dataclass(slots=True)
class _Client:
    responses: OrderedDict[str, Stored] = field(default_factory=OrderedDict)
    turns_by_item: dict[str, Turn] = field(default_factory=dict)
    size_bytes: int = 0


class ResponsesStore:
    """Keeps responses for `keep_s` seconds by `now`, and of `limit_bytes` in all; 0 keeps none."""

    def __init__(self, limit_bytes: int, keep_s: float, *, now: Callable[[], float]) -> None:
        self._limit_bytes = limit_bytes
        self._keep_s = keep_s
        self._now = now
        self._lock = Lock()
        self._clients: dict[str, _Client] = {}
        self._in_time: OrderedDict[tuple[str, str], float] = OrderedDict()
        """When each expires, the first to do so first."""
        self._size_bytes = 0
        self.running: weakref.WeakValueDictionary[str, Running] = weakref.WeakValueDictionary()
        """Streams by their responses' ids. Whoever writes one holds it: it is gone from here with them."""

    @property
    def keeps(self) -> bool:
        """Whether it keeps anything at all."""
        return self._limit_bytes > 0

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def put(self, client: str, id: str, body: bytes, turns: tuple[Turn, ...]) -> None:
        """Keep a response, whose last turn is new. One that would not fit alone is not kept."""
        with self._lock:
            self._drop_expired()
            stored = Stored(body, turns, self._now() + self._keep_s)
            if stored.size_bytes + sum(turn.size_bytes for turn in turns) > self._limit_bytes:
                return
            self._add(client, id, stored)
            while self._size_bytes > self._limit_bytes:
                largest = max(self._clients, key=lambda name: self._clients[name].size_bytes)
                self._drop(largest, next(iter(self._clients[largest].responses)))

    def find(self, client: str, id: str) -> Stored | None:
        """A response of this client's, if it is still kept."""
        with self._lock:
            self._drop_expired()
            own = self._clients.get(client)
            return None if own is None else own.responses.get(id)

    def turn_with(self, client: str, item_id: str) -> Turn | None:
        """The turn of this client's that has an item, if it is still kept."""
        with self._lock:
            self._drop_expired()
            own = self._clients.get(client)
            return None if own is None else own.turns_by_item.get(item_id)

    def remove(self, client: str, id: str) -> bool:
        """Forget a response; False if this client has none of that id. Later ones keep their conversation."""
        with self._lock:
            self._drop_expired()
            if (client, id) not in self._in_time:
                return False
            self._drop(client, id)
            return True

    def _drop_expired(self) -> None:
        now = self._now()
        while self._in_time:
            (client, id), expires_s = next(iter(self._in_time.items()))
            if expires_s > now:
                break
            self._drop(client, id)

    def _add(self, name: str, id: str, stored: Stored) -> None:
        client = self._clients.setdefault(name, _Client())
        client.responses[id] = stored
        self._in_time[name, id] = stored.expires_s
        size_bytes = stored.size_bytes
        for turn in stored.turns:
            turn.holders += 1
            if turn.holders == 1:
                size_bytes += turn.size_bytes
                client.turns_by_item |= dict.fromkeys(turn.item_ids, turn)
        self._grow(client, size_bytes)

    def _drop(self, name: str, id: str) -> None:
        client = self._clients[name]
        stored = client.responses.pop(id)
        del self._in_time[name, id]
        size_bytes = stored.size_bytes
        for turn in stored.turns:
            turn.holders -= 1
            if not turn.holders:
                size_bytes += turn.size_bytes
                for item_id in turn.item_ids:
                    if client.turns_by_item.get(item_id) is turn:
                        del client.turns_by_item[item_id]
        self._grow(client, -size_bytes)
        if not client.responses:
            del self._clients[name]

    def _grow(self, client: _Client, size_bytes: int) -> None:
        client.size_bytes += size_bytes
        self._size_bytes += size_bytes


@dataclass(frozen=True, slots=True)
class OwnResponses:
    """The store as one client sees it."""

    store: ResponsesStore
    client: str

    def conversation(self, id: str) -> tuple[Turn, ...] | None:
        """The turns up to a response; None where it is not kept."""
        found = self.store.find(self.client, id)
        return None if found is None else found.turns

    def turn_with(self, item_id: str) -> Turn | None:
        return self.store.turn_with(self.client, item_id)

    def keep(self, id: str, body: bytes, turns: tuple[Turn, ...]) -> None:
        self.store.put(self.client, id, body, turns)
