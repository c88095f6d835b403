"""A chat over HTTP/1.1, from a client that hides no misbehaviour, its own included.

One request, one connection, one `Answer`. A `Habit` says how the client behaves: it may read slowly, stop
reading, send its request in a trickle, pipeline junk, half-close, or leave with a FIN or an RST at a chosen
moment. Nothing is retried, pooled or buffered on the way; times are taken when bytes arrive.

http2.py does the same over HTTP/2.
"""

from collections.abc import Callable

import trio

from tools.clients.apis import CHAT, Api
from tools.clients.connection import RECEIVE_BYTES, Line, connect, root_cause
from tools.clients.framing import FramingError, ResponseReader, request_bytes
from tools.clients.habits import POLITE, Habit
from tools.clients.sse import Answer, read_whole
from tools.clients.target import Chat, Target


def chat_bytes(target: Target, request: Chat, api: Api = CHAT) -> bytes:
    """The request as it goes over the wire."""
    head = target.headers | {"content-type": "application/json"}
    return request_bytes("POST", f"{target.path}/{api.path}", head, api.body(request, target.model))


async def chat(
    target: Target,
    request: Chat,
    habit: Habit = POLITE,
    *,
    api: Api = CHAT,
    leaving: trio.CancelScope | None = None,
    watch: Callable[[Answer], None] | None = None,
) -> Answer:
    """Ask, behave as `habit` says, and return what was seen. Raises nothing but Cancelled.

    An `api` other than Chat's is for streams only. Cancelling `leaving` makes the client leave at once, by
    `habit.leave`; the answer says "left". `watch` is called with the unfinished answer whenever text has
    come; it may not block or raise.
    """
    answer = Answer(sent_s=trio.current_time())
    wire = chat_bytes(target, request, api)
    try:
        async with connect(target, receive_buffer_bytes=habit.receive_buffer_bytes) as line:
            with leaving or trio.CancelScope() as scope:
                await line.send(wire + habit.pipelined, habit.send_bytes_s)
                answer.sent_s = trio.current_time()
                if habit.half_closes:
                    line.half_close()
                if habit.leave_after_s is not None:
                    scope.deadline = answer.sent_s + habit.leave_after_s
                await _read(line, answer, api, habit, watch)
            if not answer.ending:
                answer.ending = "left"
                answer.ended_s = trio.current_time()
                line.leave(habit.leave)
    except (OSError, trio.BrokenResourceError, FramingError) as error:
        answer.ending = "cut"
        answer.error = answer.error or root_cause(error)
    if answer.ended_s is None:
        answer.ended_s = trio.current_time()
    return answer


async def _read(
    line: Line, answer: Answer, api: Api, habit: Habit, watch: Callable[[Answer], None] | None
) -> None:
    """Read the response to its end, or to where the habit stops; then `ending` is still empty."""
    response = ResponseReader()
    events = api.reader(answer)
    whole: list[bytes] = []
    max_bytes = RECEIVE_BYTES if habit.read_bytes_s is None else max(1, int(habit.read_bytes_s / 10))
    deltas = 0
    while not response.is_complete:
        data = await line.receive(max_bytes)
        now_s = trio.current_time()
        if not data:
            response.feed_eof()
            break
        if answer.first_byte_s is None:
            answer.first_byte_s = now_s
        body = response.feed(data)
        answer.status = response.status
        answer.body_bytes += len(body)
        if body and response.is_event_stream:
            events.feed(body, now_s)
        elif body:
            whole.append(body)
        if len(answer.content_s) > deltas:
            deltas = len(answer.content_s)
            if watch is not None:
                watch(answer)
            if habit.leave_after_deltas is not None and deltas >= habit.leave_after_deltas:
                return
            if habit.stalls:
                await _stall(line, answer, habit)
                return
        if habit.read_bytes_s is not None:
            await trio.sleep(len(data) / habit.read_bytes_s)
    if answer.status != 200:
        answer.ending = "refused"
        answer.error = b"".join(whole)[:300].decode(errors="replace")
        return
    if response.is_event_stream:
        events.finish()
    else:
        read_whole(answer, b"".join(whole), trio.current_time())
    if response.excess and not habit.pipelined:
        answer.violate("bytes after the end of the response")
    answer.ending = "failed" if answer.error else "done"


async def _stall(line: Line, answer: Answer, habit: Habit) -> None:
    """Read no more until the server ends the connection.

    It asks the kernel every 10 ms, because nothing else tells of an RST without reading.
    """
    with trio.move_on_after(habit.stall_limit_s):
        while line.is_open_at_peer:  # noqa: ASYNC110
            await trio.sleep(0.01)
        answer.ending = "evicted"
        answer.ended_s = trio.current_time()
