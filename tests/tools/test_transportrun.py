"""The figures of the transport: measured on real servers with tiny numbers, and what of them is pure."""

import socket
import sys
from pathlib import Path

import msgspec
import pytest
import trio

import loadtest
import transportrun
from figures import Threshold
from serverproc import SCRIPTED_COMMAND, serve
from sheet import Sheet
from sse import Answer
from ssewatch import Reader
from stalled import unread_bytes
from transport_beside import together_tokens_s
from transport_stage import QUICK, Stage

TOOL = Path(__file__).parents[2] / "tools" / "loadtest.py"


@pytest.mark.parametrize("name", transportrun.FIGURES)
async def test_every_figure_can_be_measured(name):
    sheet = await transportrun.FIGURES[name](Stage(), QUICK)
    assert sheet.broken == []
    assert sheet.rows
    assert all(goal.measured is not None for goal in sheet.goals)


async def test_exit_code_and_json(tmp_path):
    command = [sys.executable, str(TOOL), "--scenario", "transport", "--quick", "--figures", "shutdown"]
    done = await trio.run_process([*command, "--json", str(tmp_path / "t.json")], capture_stdout=True)
    assert b"exit code" in done.stdout
    [sheet] = msgspec.json.decode((tmp_path / "t.json").read_bytes())["sheets"]
    assert [row["code"] for row in sheet["rows"]] == [0]
    assert {goal["limit"] for goal in sheet["goals"]} == {0.0, 3.0}


@pytest.mark.parametrize(
    ("measured", "broken", "holds"), [(0.9, [], False), (0.99, [], True), (0.99, ["no stream"], False)]
)
def test_a_missed_goal_and_a_broken_run_fail(measured, broken, holds):
    goal = Threshold("ratio", 0.98, measured, at_most=False)
    sheet = Sheet("beside", [], [], [], [goal], "", (0.0, 0.0, 0.0), broken)
    assert transportrun.holds([sheet]) is holds


def test_an_unknown_figure_ends_with_2(capsys):
    with pytest.raises(SystemExit) as ended:
        loadtest.parse(["--scenario", "transport", "--figures", "lunch"])
    assert ended.value.code == 2
    assert "lunch" in capsys.readouterr().err


async def test_the_scripted_server_takes_the_flags_of_corral():
    async with serve(SCRIPTED_COMMAND, ["--slots=3", "--ctx-tokens=2000", "--keepalive-s=7"]) as server:
        with socket.create_connection((server.target.host, server.target.port)) as sock:
            sock.sendall(b"GET /props HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert b'"slots":3,"ctx_tokens":2000' in answer
    assert b'"keepalive_s":7.0' in answer


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_events_are_counted_however_the_bytes_come(size):
    stream = b"a\r\ndata: x\n\n\r\n14\r\ndata: y\n\ndata: z\n\n\r\n"
    with socket.socket() as sock:
        reader = Reader(sock)
        for start in range(0, len(stream), size):
            reader.feed(stream[start : start + size])
    assert (reader.events, reader.received_bytes, reader.is_open) == (3, len(stream), True)
    reader.feed(b"")
    assert not reader.is_open


def test_unread_bytes_are_those_that_were_written_and_not_read():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, address = listener.accept()
            with served:
                served.sendall(bytes(1000))
                assert unread_bytes(port)[address[1]] == 1000
                client.recv(400)
                assert unread_bytes(port)[address[1]] == 600


def test_throughput_counts_while_all_streams_run():
    early = Answer(content_s=[1.0, 2.0, 3.0, 4.0])
    late = Answer(content_s=[2.0, 3.0, 4.0, 5.0, 6.0])
    assert together_tokens_s([early, late]) == 2.0  # from 2 to 4 s: two deltas of each
    assert together_tokens_s([early, Answer()]) == pytest.approx(1.0)
