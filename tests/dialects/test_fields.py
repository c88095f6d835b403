"""The tables of fields of Messages, Responses and Embeddings keep their word, row by row; none of the APIs'
own fields is missing, and docs/api.md shows them."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from anthropic.types.beta import message_create_params as beta_message_create_params
from openai.types import embedding_create_params
from openai.types.responses import input_token_count_params, response_create_params

from corral.dialects import Call, EmbedCall
from corral.dialects.anthropic import fields as messages_fields
from corral.dialects.anthropic.messages import MessagesDialect
from corral.dialects.fields import Field, Harmless, Honoured, Refused, table
from corral.dialects.openai import embeddings_fields, responses_fields
from corral.dialects.openai.embeddings import EmbeddingsDialect
from corral.dialects.openai.fields import SERVERS
from corral.dialects.openai.responses import ResponsesDialect
from corral.dialects.openai.responses_store import ResponsesStore, Turn
from corral.errors import InvalidRequest

DOCS = Path(__file__).parents[2] / "docs" / "api.md"
STORE = ResponsesStore(2**20, 60.0, now=lambda: 0.0)
STORE.put("me", "resp_1", b"", (Turn(b'[{"role":"user","content":"before"}]', b"[]", ()),))


@dataclass(frozen=True)
class Table:
    """One API's: its rows, the least that a request must have, what a field has no effect without, and the
    fields that the API's own package knows."""

    name: str
    parse: Callable[[bytes], Call | EmbedCall]
    fields: tuple[Field, ...]
    base: dict[str, Any]
    needed: dict[str, dict[str, Any]]
    known: set[str]
    servers: dict[str, str] | None = None
    """Whose fields these are, where not all are the API's own; by the initials in the table."""


MESSAGES_DIALECT = MessagesDialect(b"k")
RESPONSES_DIALECT = ResponsesDialect(STORE, b"k")
TOOL = {"name": "f", "input_schema": {"type": "object"}}
FUNCTION = {"type": "function", "name": "f"}
TABLES = (
    Table(
        "messages",
        lambda body: MESSAGES_DIALECT.parse(body, {}, "me"),
        messages_fields.FIELDS,
        {"model": "any", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]},
        {"tool_choice": {"tools": [TOOL]}},
        {
            *message_create_params.MessageCreateParamsBase.__annotations__,
            *beta_message_create_params.MessageCreateParamsBase.__annotations__,
            *message_count_tokens_params.MessageCountTokensParams.__annotations__,
        },
    ),
    Table(
        "responses",
        lambda body: RESPONSES_DIALECT.parse(body, {}, "me"),
        responses_fields.FIELDS,
        {"input": "hi"},
        {
            "tool_choice": {"tools": [FUNCTION]},
            "top_logprobs": {"include": ["message.output_text.logprobs"]},
        },
        {
            *response_create_params.ResponseCreateParamsBase.__annotations__,
            *input_token_count_params.InputTokenCountParams.__annotations__,
        },
    ),
    Table(
        "embeddings",
        lambda body: EmbeddingsDialect().parse(body, {}, "me"),
        embeddings_fields.FIELDS,
        {"model": "any", "input": "hi"},
        {},
        {*embedding_create_params.EmbeddingCreateParams.__annotations__},
        SERVERS,
    ),
)
REQUIRED = {"messages", "max_tokens", "model", "input"}


def rows(kind: type[Field]) -> list[Any]:
    return [
        pytest.param(api, field, id=f"{api.name}-{field.name}")
        for api in TABLES
        for field in api.fields
        if isinstance(field, kind)
    ]


def parse(api: Table, **fields: Any) -> Call | EmbedCall:
    return api.parse(json.dumps({**api.base, **fields}).encode())


@pytest.mark.parametrize(("api", "field"), rows(Honoured))
def test_a_field_that_is_honoured_changes_what_is_done(api: Table, field: Honoured) -> None:
    if field.name in ("messages", "input"):
        return  # all other tests are about them
    needed = api.needed.get(field.name, {})
    assert parse(api, **needed, **{field.name: field.example}) != parse(api, **needed)
    if field.name not in REQUIRED:
        assert parse(api, **needed, **{field.name: None}) == parse(api, **needed)


@pytest.mark.parametrize(("api", "field"), rows(Harmless))
def test_a_field_that_is_harmless_changes_nothing(api: Table, field: Harmless) -> None:
    assert parse(api, **{field.name: field.example}) == parse(api)


@pytest.mark.parametrize(("api", "field"), rows(Refused))
def test_a_field_that_is_refused_is_named_unless_it_makes_no_difference(api: Table, field: Refused) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(api, **{field.name: field.example})
    assert caught.value.param == field.name
    assert caught.value.message == f"'{field.name}' is not supported by this server."
    for value in (None, *field.unless):
        assert parse(api, **{field.name: value}) == parse(api)


@pytest.mark.parametrize("api", TABLES, ids=lambda api: api.name)
def test_every_field_that_the_apis_own_package_knows_is_in_its_table_once(api: Table) -> None:
    names = [field.name for field in api.fields]
    assert len(names) == len(set(names))
    assert api.known - set(names) == set()


@pytest.mark.parametrize("api", TABLES, ids=lambda api: api.name)
def test_the_documentation_shows_the_table(api: Table) -> None:
    shown = re.compile(rf"(?<=<!-- {api.name} fields -->\n\n).*?(?=\n<!-- /{api.name} fields -->)", re.DOTALL)
    text = DOCS.read_text()
    if os.environ.get("CORRAL_UPDATE_GOLDEN"):
        DOCS.write_text(shown.sub(lambda _: table(api.fields, api.servers), text))
        text = DOCS.read_text()
    found = shown.search(text)
    assert found is not None
    assert found[0] == table(api.fields, api.servers)
