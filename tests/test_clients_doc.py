"""docs/clients.md says of each client what a test of it covers, and no more."""

import importlib
import os
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "clients.md"
TABLE = re.compile(r"(?<=<!-- clients -->\n\n).*?(?=\n<!-- /clients -->)", re.DOTALL)
COLUMNS = ("stream", "tools", "reasoning", "keepalive", "error", "cancel")
FOLDERS = ("tests/sdk", "tests/e2e")


def covered() -> dict[tuple[str, str], set[str]]:
    """What the tests are marked with, by client and API."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).glob("test_*.py")):
            module = importlib.import_module(f"{folder.replace('/', '.')}.{path.stem}")
            for value in vars(module).values():
                for mark in getattr(value, "pytestmark", ()):
                    if mark.name == "covers":
                        client, api, *what = mark.args
                        assert set(what) <= set(COLUMNS)
                        found[client, api] |= set(what)
    return found


def as_markdown() -> str:
    lines = [f"| client | API | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
    for (client, api), what in sorted(covered().items()):
        cells = " | ".join("yes" if column in what else "" for column in COLUMNS)
        lines.append(f"| {client} | {api} | {cells} |")
    return "\n".join(lines) + "\n"


def test_the_table_is_what_the_tests_cover() -> None:
    text = DOCS.read_text()
    if os.environ.get("CORRAL_UPDATE_GOLDEN"):
        text = TABLE.sub(lambda _: as_markdown(), text)
        DOCS.write_text(text)
    found = TABLE.search(text)
    assert found is not None
    assert found[0] == as_markdown()
