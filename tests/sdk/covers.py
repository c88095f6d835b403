"""What a test shows of a client, for the table in docs/clients.md."""

from collections.abc import Callable
from typing import Literal, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., object])
Column = Literal["stream", "tools", "reasoning", "keepalive", "error", "cancel"]


def covering(client: str, api: str, *what: Column) -> Callable[[Test], Test]:
    """Mark a test: it shows so much of a client on an API."""

    def mark(test: Test) -> Test:
        marked: Test = pytest.mark.covers(client, api, *what)(test)
        return marked

    return mark
