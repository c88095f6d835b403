import trio
from tests.tools.fakeserver import DONE, HEAD, LAST, chunked, delta, serving, usage

from tools.clients.habits import Departure, Leave
from tools.measures.residual_probe import ResidualProbe


async def polite(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD + chunked(delta("a")))
    await stream.send_all(chunked(delta("b", finish='"stop"') + usage(2) + DONE) + LAST)


async def test_residual_is_the_time_beyond_the_idle_answer() -> None:
    class Busy:
        """Answers at once when idle, and 100 ms late after a victim has left: it goes on working."""

        def __init__(self) -> None:
            self.free_s = 0.0

        async def script(self, stream: trio.SocketStream) -> None:
            request = server.visits[-1].request
            if b'"stream":true' in request and b'"max_tokens":1,' not in request:
                await stream.send_all(HEAD + chunked(delta("x") * 4))
                await server.visits[-1].gone.wait()
                self.free_s = trio.current_time() + 0.1
                return
            await trio.sleep_until(self.free_s)
            if b'"stream":true' in request:
                await polite(stream)
                return
            body = b'{"choices":[{"message":{"content":"x"},"finish_reason":"length"}]}'
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body))

    busy = Busy()
    async with serving(busy.script) as (server, target):
        probe = ResidualProbe(target, victims=1, prompt_tokens=10, output_tokens=50)
        await probe.calibrate(3)
        residual_s = await probe.measure(Departure("decode", Leave.RST))
    assert residual_s is not None
    assert 0.05 < residual_s < 0.3
