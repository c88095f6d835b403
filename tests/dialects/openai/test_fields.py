"""The table of fields keeps its word, row by row, and docs/api.md shows it."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from corral.dialects.fields import Harmless, Honoured, Refused
from corral.dialects.openai.chat import ChatCall, ChatDialect
from corral.dialects.openai.chat_request import ChatBody
from corral.dialects.openai.fields import FIELDS, REFUSED, as_markdown
from corral.errors import InvalidRequest

DOCS = Path(__file__).parents[3] / "docs" / "api.md"
TABLE = re.compile(r"(?<=<!-- fields -->\n\n).*?(?=\n<!-- /fields -->)", re.DOTALL)
BASE = {"messages": [{"role": "user", "content": "hi"}]}
NEEDED: dict[str, dict[str, Any]] = {
    "top_logprobs": {"logprobs": True},
    "stream_options": {"stream": True},
    "dry_base": {"dry_multiplier": 1},
    "dry_allowed_length": {"dry_multiplier": 1},
    "dry_penalty_last_n": {"dry_multiplier": 1},
    "dry_sequence_breakers": {"dry_multiplier": 1},
    "mirostat_tau": {"mirostat": 1},
    "mirostat_eta": {"mirostat": 1},
}
"""What a field has no effect without."""

HONOURED = [field for field in FIELDS if isinstance(field, Honoured) and field.name != "messages"]
HARMLESS = [field for field in FIELDS if isinstance(field, Harmless)]


def parse(**fields: Any) -> ChatCall:
    return ChatDialect().parse(json.dumps({**BASE, **fields}).encode(), {})


@pytest.mark.parametrize("field", HONOURED, ids=lambda field: field.name)
def test_a_field_that_is_honoured_changes_what_is_done(field: Honoured) -> None:
    needed = NEEDED.get(field.name, {})
    assert parse(**needed, **{field.name: field.example}) != parse(**needed)
    assert parse(**needed, **{field.name: None}) == parse(**needed)


@pytest.mark.parametrize("field", HARMLESS, ids=lambda field: field.name)
def test_a_field_that_is_harmless_changes_nothing(field: Harmless) -> None:
    assert parse(**{field.name: field.example}) == parse()


@pytest.mark.parametrize("field", REFUSED.values(), ids=lambda field: field.name)
def test_a_field_that_is_refused_is_named_unless_it_makes_no_difference(field: Refused) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**{field.name: field.example})
    assert caught.value.param == field.name
    assert caught.value.message == f"'{field.name}' is not supported by this server."
    for value in (None, *field.unless):
        assert parse(**{field.name: value}) == parse()


def test_every_field_is_in_the_table_once() -> None:
    names = [field.name for field in FIELDS]
    assert len(names) == len(set(names))
    assert set(ChatBody.__struct_fields__) == {
        field.name for field in FIELDS if not isinstance(field, Harmless)
    }


def test_the_documentation_shows_the_table() -> None:
    text = DOCS.read_text()
    if os.environ.get("CORRAL_UPDATE_GOLDEN"):
        DOCS.write_text(TABLE.sub(lambda _: as_markdown(), text))
        text = DOCS.read_text()
    assert TABLE.search(text)[0] == as_markdown()  # type: ignore[index]
