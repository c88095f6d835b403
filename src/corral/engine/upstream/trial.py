"""The one request of our own: whether an upstream that was given up generates again.

Being there is not being able to. So it is asked for a token as for a client, its answer is read as a
client's is, and it may take as long.
"""

from contextlib import closing
from typing import Final

import trio

from corral.engine.upstream.answer import Answer
from corral.engine.upstream.ask import body_of, path_of
from corral.engine.upstream.events import EVENT_BYTES, EventReader, EventTooLarge
from corral.engine.upstream.exchange import Ask, Exchange
from corral.engine.upstream.faults import broken, fault_of_answer
from corral.engine.upstream.kinds import Kind
from corral.request import GenerationRequest, Message

ASKED: Final = GenerationRequest((Message("user", "Hi"),), max_tokens=1)
ERROR_BYTES: Final = 64 * 1024


async def try_out(exchange: Exchange, kind: Kind, model: str, key: str, silence_s: float) -> None:
    """Ask on a connection, which is closed then, and hear it out; a checkpoint.

    Raises Fault, and TooSlowError where nothing brings the answer on for `silence_s`.
    """
    body = body_of(ASKED, kind, model=model, choice=0, max_tokens=ASKED.max_tokens, id="corral-try")
    ask = Ask(path_of(ASKED), key, body, accept="text/event-stream")
    answer, said, reader = Answer(ASKED, 1), 0, EventReader(EVENT_BYTES)
    with trio.fail_after(silence_s) as scope, closing(exchange):
        head = await exchange.ask(ask)
        if head.status != 200:
            raise fault_of_answer(head.status, await exchange.body(ERROR_BYTES))
        try:
            while not answer.is_over and (piece := await exchange.receive()):
                for frame in reader.feed(piece):
                    answer.feed(frame)
                if answer.said > said:
                    said = answer.said
                    scope.deadline = trio.current_time() + silence_s
        except EventTooLarge:
            raise broken("sent an event that is too large") from None
        answer.end()
