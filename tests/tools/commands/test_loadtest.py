"""The command line from end to end against a fake server: what it prints, writes, and exits with."""

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import trio
from rich.console import Console
from tests.tools.fakeserver import DONE, HEAD, LAST, chunked, delta, serving, usage

from tools.clients.target import Target
from tools.commands import loadtest
from tools.load.report import Report
from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet

TOOL = Path(__file__).parents[3] / "tools" / "loadtest.py"


async def polite(stream: trio.SocketStream) -> None:
    await stream.send_all(HEAD + chunked(delta("a")))
    await stream.send_all(chunked(delta("b", finish='"stop"') + usage(2) + DONE) + LAST)


async def refusing(stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 429 No\r\ncontent-length: 4\r\n\r\nfull")


async def run(target: Target, *flags: str) -> tuple[Report, list[Goal]]:
    """`loadtest` with these flags in this process; the report and its thresholds."""
    args = loadtest.parse(["--base-url", f"http://127.0.0.1:{target.port}/v1", "--duration", "0.3", *flags])
    report = await loadtest.measure(await loadtest.load_from(args), Console(quiet=True))
    return report, loadtest.thresholds(args, report)


async def test_closed_loop() -> None:
    async with serving(polite) as (_, target):
        report, held = await run(target, "--concurrency", "2", "--min-tokens-s", "1", "--max-errors", "0")
    assert report.whole == report.started > 2
    assert report.output_tokens == 2 * report.whole
    assert all(threshold.is_met for threshold in held)


async def test_open_loop() -> None:
    async with serving(polite) as (_, target):
        report, _ = await run(target, "--rate", "50")
    assert 3 <= report.whole <= 40


async def test_a_missed_threshold() -> None:
    async with serving(refusing) as (_, target):
        report, held = await run(target, "--max-errors", "0", "--max-ttft-p95-ms", "10")
    assert list(report.errors) == ["refused 429"]
    assert [threshold.is_met for threshold in held] == [False, False]


async def test_mixed_company_is_survived() -> None:
    async with serving(polite) as (_, target):
        report, _ = await run(target, "--scenario", "mixed", "--concurrency", "20")
    assert report.whole > 10
    assert {ending.split()[0] for ending in report.endings} >= {"chat", "abort", "status"}


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
def test_a_wrong_command_line_ends_with_2(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        loadtest.parse(flags)
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_nobody_there_is_one_line_that_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert loadtest.main(["--base-url", "http://127.0.0.1:9/v1"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "make serve" in said


@pytest.mark.parametrize(("limit", "code"), [("0", 0), ("1e9", 1)])
async def test_exit_code_json_and_chart(tmp_path: Path, limit: str, code: int) -> None:
    async with serving(polite) as (_, target):
        command = [sys.executable, str(TOOL), "--base-url", f"http://127.0.0.1:{target.port}/v1"]
        command += ["--duration", "0.3", "--min-tokens-s", limit]
        command += ["--json", str(tmp_path / "r.json"), "--chart", str(tmp_path / "c.html")]
        done = await trio.run_process(command, check=False, capture_stdout=True, capture_stderr=True)
    assert done.returncode == code
    assert (b"MISSED" in done.stdout) == (code == 1)
    [written] = msgspec.json.decode((tmp_path / "r.json").read_bytes())
    assert written["rows"][0]["whole"] > 0
    assert written["goals"][0]["name"] == "tokens/s"
    assert "<svg" in (tmp_path / "c.html").read_text()


async def test_interrupted_it_still_reports() -> None:
    answered = trio.Event()

    async def telling(stream: trio.SocketStream) -> None:
        await polite(stream)
        if len(server.visits) > 20:  # of eight clients in a loop, some have had their answers by now
            answered.set()

    async with serving(telling) as (server, target):
        command = [sys.executable, str(TOOL), "--base-url", f"http://127.0.0.1:{target.port}/v1"]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        await answered.wait()
        process.send_signal(signal.SIGINT)
        assert process.stdout is not None
        output = b""
        async for piece in process.stdout:
            output += piece
        await process.wait()
    assert process.returncode == 130
    assert b"interrupted" in output
    assert b"TTFT" in output


async def test_the_transport_has_goals_an_exit_code_and_json(tmp_path: Path) -> None:
    command = [sys.executable, str(TOOL), "--scenario", "transport", "--quick", "--figures", "shutdown"]
    done = await trio.run_process([*command, "--json", str(tmp_path / "t.json")], capture_stdout=True)
    assert b"exit code" in done.stdout
    [sheet] = msgspec.json.decode((tmp_path / "t.json").read_bytes())
    assert [row["code"] for row in sheet["rows"]] == [0]
    assert {goal["limit"] for goal in sheet["goals"]} == {0.0, 3.0}


@pytest.mark.parametrize(
    ("measured", "broken", "holds"), [(0.9, [], False), (0.99, [], True), (0.99, ["no stream"], False)]
)
def test_a_missed_goal_and_a_broken_run_fail(measured: float, broken: list[str], holds: bool) -> None:
    goal = Goal("ratio", 0.98, measured, at_most=False)
    sheet = Sheet("beside", [], [], [], [goal], "", broken)
    assert loadtest.holds([sheet]) is holds


def test_an_unknown_figure_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        loadtest.parse(["--scenario", "transport", "--figures", "lunch"])
    assert ended.value.code == 2
    assert "lunch" in capsys.readouterr().err
