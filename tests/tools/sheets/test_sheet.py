import io
from pathlib import Path

import msgspec
from rich.console import Console

from tools.sheets.goal import Goal
from tools.sheets.sheet import Sheet, write


class Row(msgspec.Struct):
    streams: int


GOAL = Goal("x", 1.5, 1.4, at_most=False)
SHEET = Sheet("all", ["a"], [["1"]], [Row(8)], [GOAL], "what it means", broken=["body ends without [done]"])


def test_a_sheet_becomes_json_with_its_rows(tmp_path: Path) -> None:
    write(tmp_path / "sheets.json", [SHEET])
    [decoded] = msgspec.json.decode((tmp_path / "sheets.json").read_bytes())
    assert decoded["rows"] == [{"streams": 8}]
    assert decoded["goals"] == [{"name": "x", "limit": 1.5, "measured": 1.4, "at_most": False}]


def test_all_of_it_is_printed_and_brackets_stay() -> None:
    printed = io.StringIO()
    SHEET.show(Console(file=printed, width=100))
    for part in ("all", "what it means", "MISSED x 1.400 >= 1.5", "went wrong: body ends without [done]"):
        assert part in printed.getvalue()


def test_what_went_wrong_is_cut_short_and_says_so() -> None:
    printed = io.StringIO()
    msgspec.structs.replace(SHEET, broken=["lost"] * 12).show(Console(file=printed, width=100))
    assert printed.getvalue().count("lost") == 10
    assert "and 2 more" in printed.getvalue()
