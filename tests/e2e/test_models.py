"""Several real models of one server: the default one, under three names, of which two fit the memory."""

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from tests.e2e.processes import QUESTION, Server, corral
from tests.e2e.test_upstreams import got

pytestmark = pytest.mark.model

CONFIG = """
models_memory_bytes = "1g"
slots = 2
host_cache_bytes = 0

[[models]]
name = "one"
ctx_tokens = "1k"

[[models]]
name = "two"
ctx_tokens = "2k"
load = "first-use"

[[models]]
name = "three"
ctx_tokens = "1k"
load = "first-use"
"""


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    (folder / "several.toml").write_text(CONFIG)
    with ExitStack() as running:
        server = corral(folder, "--config", str(folder / "several.toml"))
        running.callback(server.stop)
        server.until_healthy()
        yield server


def models(server: Server) -> dict[str, Any]:
    return {model["name"]: model for model in got(server, "/status/json")["models"]}


def test_each_answers_by_its_name_and_two_at_a_time_are_in_memory(
    several: Server, sdk: Callable[..., openai.OpenAI]
) -> None:
    client = sdk(several.api, timeout=120.0)
    said = {}
    for name in ("one", "two", "three", "one"):
        answer = client.chat.completions.create(
            model=name, messages=QUESTION, max_tokens=8, seed=7, temperature=0
        )
        assert answer.model == name
        said[name] = answer.choices[0].message.content
        states = [model["state"] for model in models(several).values()]
        assert states.count("loaded") <= 2
    assert len(set(said.values())) == 1, "the same weights, with whatever name"
    assert [model.id for model in client.models.list().data] == ["one", "two", "three"]
    assert models(several)["one"]["requests"] == 2
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="four", messages=QUESTION)
    assert missing.value.code == "model_not_found"


def test_a_client_that_leaves_while_a_model_is_loaded_leaves_nothing(several: Server) -> None:
    name = next(name for name, model in models(several).items() if model["state"] == "not loaded")
    with several.stream(model=name, return_progress=True) as stream:
        assert "loading_progress" in stream.frame()
    deadline = time.monotonic() + 60
    while (model := models(several)[name])["state"] != "loaded" or model["live"]:
        assert time.monotonic() < deadline, model
        time.sleep(0.02)  # another process: nothing here can wait for it
    assert model["requests"] >= 1


def test_a_signal_while_a_model_is_loaded_ends_the_server_in_order(tmp_path: Path) -> None:
    (tmp_path / "several.toml").write_text(CONFIG + "\n")
    server = corral(tmp_path, "--config", str(tmp_path / "several.toml"), "--drain-s", "0.1")
    server.until_healthy()
    with server.stream(model="two") as stream:
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        frames = stream.frames()
        assert "server_shutdown" in frames[-1]
        server.stop()
    assert time.monotonic() - began < 5
