"""What happened to a request, step by step, in a file for each session, or for a request without one.

A line is a JSON object: when it was (`at`, and `ms` since the request was accepted), whose (`id`) and what
(`event`). There are the states as they are entered, the prompt as the model gets it, what was found in the
caches and what they held, each step's tokens and drafts, the blocks that the parser made of them, and the end
with all its figures. Texts, and the names of tools, only where content is kept, as on /status.

Nobody who serves waits for a file: lines are gathered, up to GATHERED_BYTES, and written in a thread. What is
too much is counted and not written.
"""

import hashlib
import logging
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from corral.books.life import State
from corral.books.record import Record
from corral.errors import CorralError, StartupError, code_of
from corral.events import (
    BlockClosed,
    BlockDelta,
    BlockOpened,
    Continued,
    Event,
    Failed,
    Finished,
    Prefill,
    Sampled,
    Started,
    TakenBack,
)
from corral.serving.models import Models
from corral.watching import views

logger = logging.getLogger("corral.trace")

PAUSE_S = 0.25
GATHERED_BYTES = 2**23
MOST_BYTES = 2**30
"""What is written in all, while the server runs: a trace is for looking closely, not for keeping."""
NAME_CHARS = 80
CLIENT: Final = "the trace"
"""Against whose fair share of the prompt processes it counts that prompts are rendered once more."""

_encode = msgspec.json.Encoder(enc_hook=str).encode


class Tracer:
    """Told by the records; `run` writes."""

    def __init__(self, models: Models, folder: Path, *, with_content: bool) -> None:
        """Raises StartupError if nothing can be written into `folder`."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartupError(f"cannot make the folder for traces, {folder}: {error.strerror}") from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StartupError(f"cannot write traces into {folder}")
        self._models = models
        self._folder = folder
        self._with_content = with_content
        self._gathered: dict[str, list[bytes]] = {}
        self._gathered_bytes = 0
        self._lost = 0
        self._written_bytes = 0
        self._unwritten_prompts: list[Record] = []
        self._wake = trio.Event()

    # What the records tell

    def moved(self, record: Record, state: State) -> None:
        """It has entered a state."""
        fields: dict[str, Any] = {}
        match state:
            case "preparing":
                fields = self._asked(record)
            case "queued":
                fields = {"prompt_tokens": record.prompt_tokens, "max_tokens": record.max_tokens}
                if self._with_content:
                    self._unwritten_prompts.append(record)
            case "prefill":
                fields = {"lanes": record.lanes, "caches": self._models.service_of(record).holdings}
        self._tell(record, state, **fields)

    def observed(self, record: Record, choice: int, events: list[Event]) -> None:
        """What the engine said of it in one step."""
        for event in events:
            if (told := self._told(record, event)) is not None:
                name, fields = told
                self._tell(record, name, choice=choice, **fields)

    def settled(self, record: Record) -> None:
        """For the ledger's `on_settled`."""
        self._tell(record, "ended", **msgspec.structs.asdict(views.row(record)))

    def _asked(self, record: Record) -> dict[str, Any]:
        view = views.request(record, with_content=False)
        names = ("api", "client", "request_id", "session", "stream", "params")
        fields = {name: getattr(view, name) for name in names}
        if self._with_content:
            fields |= {"messages": views.messages(record), "tools": views.tool_names(record)}
        return fields

    def _told(self, record: Record, event: Event) -> tuple[str, dict[str, Any]] | None:
        match event:
            case Prefill(done, total, cached):
                return "prompt_step", {"done": done, "of": total, "cached": cached}
            case Started(prompt_tokens, cached):
                found = {"cached": cached, "found": event.found, "computed": prompt_tokens - cached}
                return "prompt_done", {**found, "caches": self._models.service_of(record).holdings}
            case Sampled(tokens, draft, accepted, reasoning):
                drafts = {"drafted": len(draft), "accepted": accepted} if draft else {}
                return "step", {"tokens": tokens, **drafts, "reasoning": reasoning or None}
            case BlockOpened(index, kind, call_id, name):
                named = {"name": name} if self._with_content else {}
                return "block", {"block": index, "kind": kind, "call_id": call_id, **named}
            case BlockDelta(index, text):
                shown = {"text": text} if self._with_content else {}
                return "text", {"block": index, "chars": len(text), **shown}
            case BlockClosed():
                return "block_end", {"block": event.index}
            case Continued(replica):
                return "continued", {"replica": replica}
            case TakenBack():
                return "taken_back", {}
            case Finished():
                return "finished", {"reason": event.reason}
            case Failed(error):
                return "failed", {"error": code_of(error)}
            case _:
                return None

    def _tell(self, record: Record, event: str, **fields: Any) -> None:
        if self._written_bytes >= MOST_BYTES or self._gathered_bytes >= GATHERED_BYTES:
            self._lost += 1
            return
        life = record.life
        known = {name: value for name, value in fields.items() if value is not None}
        ms = round(1e3 * life.waited_s, 2)
        at = round(record.started_at + life.waited_s, 3)
        line = _encode({"at": at, "ms": ms, "id": record.about.id, "event": event, **known}) + b"\n"
        self._gathered.setdefault(file_name(record.about.session or record.about.id), []).append(line)
        self._gathered_bytes += len(line)
        self._wake.set()

    # Writing

    async def run(self) -> None:
        """Write what is told, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            await self.flush()
            await trio.sleep(PAUSE_S)

    async def flush(self) -> None:
        """Write what has been told so far; a checkpoint. Cancelling it waits for what is being written."""
        await self._render_prompts()
        gathered, self._gathered, self._gathered_bytes = self._gathered, {}, 0
        if self._lost:
            logger.warning("%d lines of traces were too many and are not written", self._lost)
            self._lost = 0
        try:
            self._written_bytes += await trio.to_thread.run_sync(_append, self._folder, gathered)
        except OSError as error:
            logger.warning("traces cannot be written into %s: %s", self._folder, error.strerror)

    def end(self) -> None:
        """Write what is left; the last call. Blocks."""
        try:
            _append(self._folder, self._gathered)
        except OSError as error:
            logger.warning("traces cannot be written into %s: %s", self._folder, error.strerror)

    async def _render_prompts(self) -> None:
        """The prompts as the model gets them: written a second time, for an engine keeps no text of them."""
        records, self._unwritten_prompts = self._unwritten_prompts, []
        for record in records:
            request = record.request
            if request.prompt is not None or request.embed is not None:
                continue  # its messages are all of it
            service = self._models.service_of(record)
            if not service.is_there:
                continue  # it has left since, and is not loaded again for this
            try:
                async with service.texts() as texts:
                    text = await texts.prompt(request, client=CLIENT)
            except CorralError:
                continue
            self._tell(record, "prompt", text=text)


def file_name(session: str) -> str:
    """A name that is one file's in the folder, whatever a client calls its session."""
    safe = re.sub(r"[^A-Za-z0-9._-]", "_", session)[:NAME_CHARS].lstrip(".")
    if safe == session:
        return f"{safe}.jsonl"
    return f"{safe}~{hashlib.sha256(session.encode()).hexdigest()[:12]}.jsonl"


def _append(folder: Path, gathered: dict[str, list[bytes]]) -> int:
    """Append the lines to their files, which only this user may read; how many bytes. Raises OSError."""
    return sum(_append_to(folder / name, lines) for name, lines in gathered.items())


def _append_to(path: Path, lines: Iterable[bytes]) -> int:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "ab") as file:
        return file.write(b"".join(lines))
