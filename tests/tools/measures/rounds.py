"""Rounds that nobody measured."""

from tools.measures.http_round import HttpRound


def http(
    tokens: int,
    wall_s: float,
    *,
    loop_s: float | None = None,
    engine_s: float | None = None,
    other_s: float | None = None,
    streams: int = 2,
) -> HttpRound:
    """A round of so many streams."""
    return HttpRound(
        streams, 110, 6, tokens, wall_s, [0.1, 0.3], [0.01] * 4, loop_s, engine_s, other_s, 0.002, []
    )
