"""What `corral serve` says once it is ready, and how a start that fails ends."""

import shlex

import pytest
import trio

from corral import server
from corral.application import Application
from corral.engine.local.scripted import ScriptedBackend
from corral.errors import StartupError
from corral.settings import Settings


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://0.0.0.0:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("https://[::]:8443", "https://[::1]:8443/v1/chat/completions"),
    ],
)
def test_the_curl_line_goes_to_an_address_one_can_talk_to(address: str, url: str) -> None:
    words = shlex.split(server.greeting(address, "it's", Settings()).partition("\n")[2])
    assert words[:3] == ["curl", "-N", url]
    assert words[-1].startswith('{"model": "it\'s", "stream": true, ')


def test_the_curl_line_has_room_for_a_key_and_shows_none() -> None:
    line = server.greeting("http://127.0.0.1:8000", "m", Settings(api_keys=("sesame",)))
    assert "Authorization: Bearer YOUR_KEY" in line
    assert "sesame" not in line


def test_the_greeting_names_all_models_and_asks_the_first() -> None:
    said = server.greeting("http://127.0.0.1:8000", "a", Settings(), names="a, b")
    assert said.startswith("corral: a, b are ready")
    assert '"model": "a"' in said


def test_the_greeting_says_whether_a_key_is_needed() -> None:
    assert "(no API key needed)" in server.greeting("http://127.0.0.1:8000", "m", Settings())
    assert "(with an API key)" in server.greeting("http://127.0.0.1:8000", "m", Settings(api_keys=("k",)))


@pytest.mark.parametrize(
    ("bind", "keys", "warns"),
    [
        ("0.0.0.0:0", (), True),
        ("[::]:0", (), True),
        ("myhost:0", (), True),
        ("0.0.0.0:0", ("key",), False),
        ("127.0.0.2:0", (), False),
        ("[::1]:0", (), False),
        ("localhost:0", (), False),
    ],
)
def test_listening_beyond_this_machine_without_a_key_is_warned_of(
    bind: str, keys: tuple[str, ...], warns: bool, caplog: pytest.LogCaptureFixture
) -> None:
    server.warn_of_strangers(Settings(bind=bind, api_keys=keys))
    assert ("whoever reaches it may use the model; see --api-keys" in caplog.text) == warns


def _broken(error: Exception) -> Application:
    def open_model() -> tuple[ScriptedBackend, str]:
        raise error

    return Application(Settings(), open_model)


@pytest.mark.parametrize("error", [StartupError("no such model"), ZeroDivisionError("a bug")])
def test_a_start_that_fails_ends_with_the_reason_itself(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(type(error), match=str(error)):
        trio.run(server._serve, Settings(bind="127.0.0.1:0"), _broken(error))
    assert not caplog.records


def test_of_a_model_that_only_reads_a_vector_is_asked_for() -> None:
    said = server.greeting("http://127.0.0.1:8000", "m", Settings(), reads_only=True)
    assert "chat" not in said
    assert "/v1/embeddings" in said
    assert '{"model": "m", "input": "Hello!"}' in said
