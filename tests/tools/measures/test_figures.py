"""The figures of the transport: measured on real servers, with numbers so small that they mean nothing."""

import pytest

from tools.measures.bed import Bed
from tools.measures.figures import TRANSPORT
from tools.measures.plan import QUICK


@pytest.mark.parametrize("name", TRANSPORT)
async def test_every_figure_can_be_measured(name: str) -> None:
    sheet = await TRANSPORT[name](Bed(), QUICK)
    assert sheet.broken == []
    assert sheet.rows
    assert all(goal.measured is not None for goal in sheet.goals)
