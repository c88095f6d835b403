"""Lines of the log for programs."""

import json
import logging

import pytest
from tests.harness import serving

from corral.engine.local.scripted import ScriptedBackend, replying
from corral.logs import JsonFormatter

CHAT = "/v1/chat/completions"
SECRET = "a word that nobody else may read"


async def test_a_request_is_one_object_with_its_figures_and_no_content(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = {"messages": [{"role": "user", "content": SECRET}], "max_tokens": 2}
    headers = {"X-Session-Id": "talk-7", "X-Request-Id": "trace-1"}
    with caplog.at_level(logging.INFO, "corral.requests"):
        async with serving(ScriptedBackend(replying(lambda _: SECRET))) as client:
            await client.send("POST", CHAT, asked, headers=headers).body()
            await client.service.wait_settled()
            await client.send("POST", CHAT, {**asked, "n": 'no "number"'}, headers=headers).body()
    lines = [JsonFormatter().format(entry) for entry in caplog.records if entry.name == "corral.requests"]
    ended, refused = map(json.loads, lines)
    assert (ended["event"], ended["outcome"], ended["status"]) == ("ended", "length", 200)
    assert (ended["request_id"], ended["session"]) == ("trace-1", "talk-7")
    assert (ended["client"], ended["completion_tokens"], ended["stream"]) == ("127.0.0.1", 2, False)
    assert ended["total_ms"] >= ended["prefill_ms"] + ended["decode_ms"]
    assert (refused["event"], refused["status"], refused["param"]) == ("refused", 400, "n")
    assert (refused["id"], refused["path"]) == ("trace-1", CHAT)
    assert all("\n" not in line and "word" not in line for line in lines)


def test_any_other_line_is_a_message_with_its_traceback() -> None:
    try:
        raise ValueError("what was wrong")
    except ValueError as error:
        record = logging.LogRecord("corral.http", logging.ERROR, "", 0, "it %s", ("failed",), None)
        record.exc_info = (ValueError, error, error.__traceback__)
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["logger"], line["message"]) == ("error", "corral.http", "it failed")
    assert "ValueError: what was wrong" in line["traceback"]
