"""docs/security.md names bounds by their flags: each flag is one, each default the one that it tells."""

import re
from pathlib import Path

import pytest

from corral.settings import Settings, flag_name

TEXT = (Path(__file__).parent.parent / "docs" / "security.md").read_text()
UNITS = {
    "connections": 1,
    "connections_per_address": 1,
    "header_bytes": 2**10,
    "header_timeout_s": 1,
    "body_limit_bytes": 2**20,
    "body_timeout_s": 1,
    "queue_requests": 1,
    "slots": 1,
    "send_timeout_s": 1,
    "reader_bytes": 2**20,
    "host_cache_bytes": 2**30,
    "stored_responses_bytes": 2**20,
    "stall_s": 1,
    "drain_s": 1,
}


def test_every_flag_it_names_is_a_setting() -> None:
    flags = {flag_name(name) for name in Settings.model_fields}
    assert set(re.findall(r"`(--[a-z-]+)`", TEXT)) <= flags


@pytest.mark.parametrize("name", UNITS)
def test_a_bound_is_the_settings_default(name: str) -> None:
    (row,) = [line for line in TEXT.splitlines() if line.startswith("| ") and f"`{flag_name(name)}`" in line]
    told = {int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", row)}
    assert Settings.model_fields[name].default / UNITS[name] in told
