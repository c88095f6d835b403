from collections import Counter
from typing import Any

import msgspec
import pytest

from tools.load.verdict import Behind, Sample, Soaked, rss_growth, verdict
from tools.servers.footprint import Footprint


def samples(*megabytes: int, every_s: float = 30.0) -> list[Sample]:
    return [Sample(i * every_s, mb * 2**20, 10, 3) for i, mb in enumerate(megabytes)]


def test_growth_counts_from_minute_five() -> None:
    assert rss_growth(samples(*[50] * 10, *[100] * 30)) == 0.0
    assert rss_growth(samples(*[50] * 10, *[100] * 15, *[105] * 15)) == pytest.approx(0.05)


def test_growth_of_short_runs_counts_from_the_first_quarter() -> None:
    assert rss_growth(samples(50, 60, 70, 70, 70, 70, 70, 70, every_s=2)) < 0.2
    assert rss_growth(samples(50)) == 0.0


CALM = Footprint(2**20, 10, 3)
FINE = Soaked(Counter({"stay: done": 9}), 1, [], CALM, CALM, together=8, exit_code=0, samples=[])


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, set()),
        ({"wrong": ["stay: cut"]}, {"texts"}),
        ({"after": Footprint(2**20, 11, 3)}, {"descriptors"}),
        ({"after": Footprint(2**20, 10, 4)}, {"threads"}),
        ({"together": 7}, {"slots"}),
        ({"samples": samples(*[50] * 20, *[55] * 20)}, {"memory"}),
        ({"samples": samples(*[50] * 20, *[55] * 20, every_s=5)}, set()),
        ({"samples": samples(*[50] * 20, *[70] * 20, every_s=5)}, {"memory"}),
        ({"exit_code": -9}, {"exit"}),
    ],
)
def test_what_is_not_back_is_a_missed_goal(changes: dict[str, Any], failed: set[str]) -> None:
    sheet = verdict(msgspec.structs.replace(FINE, **changes), slots=8, is_exact=True)
    assert {goal.name.partition(":")[0] for goal in sheet.goals if not goal.is_met} == failed
    assert sheet.goals_are_met == (not failed)


def test_texts_that_may_differ_are_told_of_and_no_failure() -> None:
    sheet = verdict(msgspec.structs.replace(FINE, wrong=["stay: cut"]), slots=8, is_exact=False)
    assert sheet.goals_are_met
    assert not sheet.broken
    assert "stay: cut" in sheet.notes


BEHIND = Behind(
    killed=2,
    slots_each=4,
    broken_off=8,
    whole_read=5,
    whole_counted=6,
    failed_counted=8,
    held=0,
    computed=0,
    out=0,
)


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({}, set()),
        ({"killed": 0, "broken_off": 0}, {"upstreams: killed"}),
        ({"broken_off": 9, "failed_counted": 9}, {"broken off, by slots of the killed"}),
        ({"failed_counted": 7}, {"status: broken off, by what clients were told"}),
        ({"whole_counted": 4}, {"status: whole answers, by what clients read"}),
        ({"held": 1}, {"status: held at upstreams"}),
        ({"out": 1}, {"status: upstreams that are given nothing"}),
        ({"computed": 1}, {"upstreams: computed there for nobody"}),
    ],
)
def test_upstreams_that_were_killed_have_goals_of_their_own(
    changes: dict[str, Any], failed: set[str]
) -> None:
    behind = msgspec.structs.replace(BEHIND, **changes)
    sheet = verdict(msgspec.structs.replace(FINE, behind=behind), slots=8, is_exact=True)
    assert {goal.name for goal in sheet.goals if not goal.is_met} == failed
