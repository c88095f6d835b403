"""Traces, from end to end on the scripted backend: what is in a file, whose it is, and what never is."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.harness import Client, serving

from corral.engine.local.scripted import ScriptedBackend, replying
from corral.errors import StartupError
from corral.watching import trace
from corral.watching.trace import file_name

SECRET = "a word that nobody else may read"


def backend() -> ScriptedBackend:
    return ScriptedBackend(replying(lambda _: f"<think>\n{SECRET}\n</think>\n\nyes"))


async def ask(client: Client, session: str = "", **fields: Any) -> str:
    """The id of an answer that is over in every respect."""
    body = {"messages": [{"role": "user", "content": SECRET}], **fields}
    headers = {"X-Session-Id": session} if session else {}
    answer = await client.send("POST", "/v1/chat/completions", body, headers=headers).json()
    await client.service.wait_settled()
    return str(answer["id"])


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def lines(folder: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]


async def test_a_session_is_a_file_with_all_that_happened_to_its_requests(tmp_path: Path) -> None:
    folder = tmp_path / "traces"
    async with serving(backend(), trace_dir=folder, status_content=True) as client:
        ids = [await ask(client, "talk-7"), await ask(client, "talk-7")]
        tracer = client.app.running.watching.tracer
        assert tracer is not None
        await tracer.flush()
    told = lines(folder, "talk-7")
    first, second = ([line for line in told if line["id"] == id] for id in ids)
    events = [line["event"] for line in first if line["event"] not in ("step", "text", "prompt")]
    assert events[:4] == ["preparing", "queued", "prefill", "prompt_done"]
    assert [line["kind"] for line in first if line["event"] == "block"] == ["reasoning", "text"]
    assert events[-1] == "ended"
    assert [line["ms"] for line in first if line["event"] != "prompt"] == sorted(
        line["ms"] for line in first if line["event"] != "prompt"
    )
    asked, [ended] = first[0], [line for line in first if line["event"] == "ended"]
    assert asked["messages"][0]["content"] == SECRET
    assert (ended["outcome"], ended["status"]) == ("stop", 200)
    [prompt] = [line["text"] for line in first if line["event"] == "prompt"]
    assert prompt.startswith("<|im_start|>")
    assert SECRET in prompt
    [reused] = [line for line in second if line["event"] == "prompt_done"]
    assert reused["cached"] > 0
    assert reused["found"] == "kept"
    assert reused["cached"] + reused["computed"] == ended["prompt_tokens"]
    assert reused["caches"]["kept_tokens"] >= 0
    said = "".join(line["text"] for line in first if line["event"] == "text")
    assert "yes" in said
    assert sum(line["tokens"] for line in first if line["event"] == "step") == ended["completion_tokens"]
    assert (folder / "talk-7.jsonl").stat().st_mode & 0o077 == 0


async def test_without_consent_there_is_no_text_in_it(tmp_path: Path) -> None:
    async with serving(backend(), trace_dir=tmp_path) as client:
        id = await ask(client, tools=[{"type": "function", "function": {"name": "secret_tool"}}])
    told = (tmp_path / f"{id}.jsonl").read_text()
    assert "word" not in told
    assert "secret_tool" not in told
    assert "prompt" not in [line["event"] for line in lines(tmp_path, id)]
    assert sum(line["chars"] for line in lines(tmp_path, id) if line["event"] == "text") > 0


async def test_without_a_folder_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with serving(backend(), status_content=True) as client:
        assert client.service.ledger.tracer is None
        await ask(client, "talk")
    assert names(tmp_path) == []


async def test_what_is_too_much_is_not_written_and_the_server_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(trace, "MOST_BYTES", 1)
    async with serving(backend(), trace_dir=tmp_path) as client:
        await ask(client, "first")
        tracer = client.app.running.watching.tracer
        assert tracer is not None
        await tracer.flush()
        await ask(client, "second")
        await tracer.flush()
    assert names(tmp_path) == ["first.jsonl"]
    assert "too many" in caplog.text


def test_a_folder_that_cannot_be_made_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match="folder for traces"):
        trace.Tracer(None, tmp_path / "file" / "traces", with_content=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("session", ["../../etc/passwd", "a/b", ".hidden", "x" * 300, "ä b", "..", "a\\b"])
def test_whatever_a_client_calls_its_session_its_file_stays_in_the_folder(session: str) -> None:
    name = file_name(session)
    assert Path(name).name == name
    assert not name.startswith(".")
    assert name != file_name(session + "!")
