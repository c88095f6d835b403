import pytest

from tools.commands.bench import MODEST_REPEATS, parse


def test_flags_after_dashes_go_to_the_server() -> None:
    args = parse(["serve", "--slots", "4", "--", "--queue-requests", "9"])
    assert (args.slots, args.flags) == (4, ["--queue-requests", "9"])


def test_engine_runs_every_figure_of_the_engine() -> None:
    assert set(MODEST_REPEATS) == {"residual", "retry", "shared", "pace", "drafting", "cost", "all"}


def test_a_peer_that_nobody_would_ask_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["drafting", "--peer", "http://127.0.0.1:1"])
    assert "no use for --peer" in capsys.readouterr().err
