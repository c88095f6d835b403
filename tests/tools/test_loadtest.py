"""The command line from end to end against a fake server: what it prints, writes, and exits with."""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio
from fakeserver import DONE, HEAD, LAST, chunked, delta, serving, usage
from rich.console import Console

import loadtest
from residual import Cell, ResidualProbe

TOOL = Path(__file__).parents[2] / "tools" / "loadtest.py"


async def polite(stream):
    await stream.send_all(HEAD + chunked(delta("a")))
    await stream.send_all(chunked(delta("b", finish='"stop"') + usage(2) + DONE) + LAST)


async def refusing(stream):
    await stream.send_all(b"HTTP/1.1 429 No\r\ncontent-length: 4\r\n\r\nfull")


async def run(target, *flags):
    """`loadtest` with these flags in this process; the report and its thresholds."""
    args = loadtest.parse(["--base-url", f"http://127.0.0.1:{target.port}/v1", "--duration", "0.3", *flags])
    report = await loadtest.measure(await loadtest.load_from(args), Console(quiet=True))
    return report, loadtest.thresholds(args, report)


async def test_closed_loop():
    async with serving(polite) as (_, target):
        report, held = await run(target, "--concurrency", "2", "--min-tokens-s", "1", "--max-errors", "0")
    assert report.whole == report.started > 2
    assert report.output_tokens == 2 * report.whole
    assert all(threshold.is_met for threshold in held)


async def test_open_loop():
    async with serving(polite) as (_, target):
        report, _ = await run(target, "--rate", "50")
    assert 3 <= report.whole <= 40


async def test_a_missed_threshold():
    async with serving(refusing) as (_, target):
        report, held = await run(target, "--max-errors", "0", "--max-ttft-p95-ms", "10")
    assert list(report.errors) == ["refused 429"]
    assert [threshold.is_met for threshold in held] == [False, False]


async def test_mixed_company_is_survived():
    async with serving(polite) as (_, target):
        report, _ = await run(target, "--scenario", "mixed", "--concurrency", "20")
    assert report.whole > 10
    assert {ending.split()[0] for ending in report.endings} >= {"chat", "abort", "status"}


async def test_residual_is_the_time_beyond_the_idle_answer():
    class Busy:
        """Answers at once when idle, and 100 ms late after a victim has left: it goes on working."""

        def __init__(self) -> None:
            self.free_s = 0.0

        async def script(self, stream):
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
        residual_s = await probe.measure(Cell("decode", True, loadtest.Leave.RST))
    assert 0.05 < residual_s < 0.3


@pytest.mark.parametrize(
    "flags",
    [
        ["--abort-at", "lunch"],
        ["--leave", "rst_stream"],
        ["--scenario", "abort", "--rate", "1"],
        ["--chart", "x.png"],
        ["--scenario", "nap"],
    ],
)
def test_a_wrong_command_line_ends_with_2(flags, capsys):
    with pytest.raises(SystemExit) as ended:
        loadtest.parse(flags)
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_nobody_there_is_one_line(capsys):
    assert loadtest.main(["--base-url", "http://127.0.0.1:9/v1"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(("limit", "code"), [("0", 0), ("1e9", 1)])
async def test_exit_code_json_and_chart(tmp_path, limit, code):
    async with serving(polite) as (_, target):
        command = [sys.executable, str(TOOL), "--base-url", f"http://127.0.0.1:{target.port}/v1"]
        command += ["--duration", "0.3", "--min-tokens-s", limit]
        command += ["--json", str(tmp_path / "r.json"), "--chart", str(tmp_path / "c.html")]
        done = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)
    assert done.returncode == code
    assert (b"MISSED" in done.stdout) == (code == 1)
    written = msgspec.json.decode((tmp_path / "r.json").read_bytes())
    assert written["report"]["whole"] > 0
    assert written["thresholds"][0]["name"] == "tokens/s"
    assert "<svg" in (tmp_path / "c.html").read_text()


async def test_interrupted_it_still_reports():
    answered = trio.Event()

    async def telling(stream):
        await polite(stream)
        if len(server.visits) > 20:  # of eight clients in a loop, some have had their answers by now
            answered.set()

    async with serving(telling) as (server, target):
        command = [sys.executable, str(TOOL), "--base-url", f"http://127.0.0.1:{target.port}/v1"]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        await answered.wait()
        process.send_signal(signal.SIGINT)
        output = b""
        async for piece in process.stdout:
            output += piece
        await process.wait()
    assert process.returncode == 130
    assert b"interrupted" in output
    assert b"TTFT" in output
