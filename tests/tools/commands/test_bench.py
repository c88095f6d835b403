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


def test_a_family_of_loads_goes_by_its_first_name() -> None:
    assert parse(["load", "--loads", "talk,short"]).loads == ("talk", "short-1", "short-8", "short-16")
    assert parse(["load"]).loads == ()


def test_a_load_that_there_is_not_is_refused_with_those_that_there_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        parse(["load", "--loads", "heavy"])
    assert "no load 'heavy'; there are retrieval, varied, long" in capsys.readouterr().err


def test_a_peer_runs_already_or_is_started(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["load", "--peer", "http://127.0.0.1:1", "--peer-cmd", "peer {port} {slots} {ctx_tokens}"])
    assert "runs already (--peer) or is started (--peer-cmd)" in capsys.readouterr().err


def test_a_command_for_a_peer_takes_its_size(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["load", "--peer-cmd", "peer --port {port}"])
    assert "--peer-cmd has no {slots}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fleet", "--router-cmd", "r {port} {urls}"], "stands in front of what --peer-cmd starts"),
        (
            ["load", "--peer-cmd", "{port} {slots} {ctx_tokens}", "--router-cmd", "r {port} {urls}"],
            "for fleet",
        ),
        (["fleet", "--peer-cmd", "{port} {slots} {ctx_tokens}", "--router-cmd", "r {port}"], "no {urls}"),
    ],
)
def test_a_router_is_started_in_front_of_peers(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert says in capsys.readouterr().err
