"""Settings: what wins over what, what is refused and how, and that docs/settings.md tells the truth."""

import argparse
import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from corral.flags import SECTIONS, add_flags, hint
from corral.settings import Settings, SettingsError, flag_name, load

DOCS = Path(__file__).parent.parent / "docs" / "settings.md"


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in os.environ:
        if variable.startswith("CORRAL_"):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def test_flags_win_over_the_environment_over_the_file_over_the_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "corral.toml").write_text("slots = 2\nqueue_requests = 2\nthreads = 2\n")
    monkeypatch.setenv("CORRAL_SLOTS", "3")
    monkeypatch.setenv("CORRAL_QUEUE_REQUESTS", "3")
    settings = load({"slots": "4"})
    assert (settings.slots, settings.queue_requests, settings.threads) == (4, 3, 2)
    assert settings.stream_keepalive_s == 3.0


def test_the_file_is_the_one_named_by_argument_then_by_corral_config(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, slots in (("corral.toml", 1), ("env.toml", 2), ("flag.toml", 3)):
        (tmp_path / name).write_text(f"slots = {slots}\n")
    assert load().slots == 1
    monkeypatch.setenv("CORRAL_CONFIG", "env.toml")
    assert load().slots == 2
    assert load(config=Path("flag.toml")).slots == 3


def test_the_class_itself_reads_nothing_but_its_arguments(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "corral.toml").write_text("slots = 2\n")
    monkeypatch.setenv("CORRAL_QUEUE_REQUESTS", "3")
    assert Settings() == Settings(slots=8, queue_requests=64)


def test_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.slots = 3  # type: ignore[misc]


def test_keys_are_a_list_in_the_file_and_comma_separated_elsewhere_and_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "corral.toml").write_text('api_keys = ["one", "two"]\n')
    assert load().api_keys == ("one", "two")
    monkeypatch.setenv("CORRAL_API_KEYS", "three, four,")
    settings = load()
    assert settings.api_keys == ("three", "four")
    assert "three" not in repr(settings)


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("127.0.0.1:8000", "127.0.0.1:8000"),
        ("[::1]:0", "[::1]:0"),
        ("localhost:65535", "localhost:65535"),
        ("9251", "127.0.0.1:9251"),
        ("localhost", "localhost:8000"),
        ("0.0.0.0", "0.0.0.0:8000"),
        ("[::]", "[::]:8000"),
    ],
)
def test_bind_takes_a_host_and_a_port_or_either(bind: str, address: str) -> None:
    assert load({"bind": bind}).bind == address


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        (["--port", "9000"], "0.0.0.0:7000"),
        (["--host", "::1"], "[::1]:7000"),
        (["--host", "localhost", "--port", "1"], "localhost:1"),
    ],
)
def test_host_and_port_are_the_halves_of_bind(
    arguments: list[str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRAL_BIND", "0.0.0.0:7000")
    assert load(parsed(*arguments)).bind == address.replace("0.0.0.0:7000", "0.0.0.0:9000")


def test_bind_and_port_together_are_refused() -> None:
    with pytest.raises(SettingsError, match="--bind says where to listen already; leave out --port"):
        load(parsed("--bind", "8000", "--port", "8001"))


def test_the_names_that_llama_server_has_for_settings_are_understood() -> None:
    given = parsed("-m", "a.gguf", "-c", "8k", "-ngl", "0", "-np", "3", "-t", "2", "--api-key", "one")
    settings = load(given)
    assert (settings.model, settings.ctx_tokens, settings.slots, settings.threads) == ("a.gguf", 8192, 3, 2)
    assert settings.api_keys == ("one",)


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("--max-model-len", "--ctx"),
        ("--ngl", "--gpu-layers"),
        ("-ctx-size", "--ctx"),
        ("--slot", "--slots"),
        ("--allowed-origin", "--allowed-origins"),
        ("--xyz", None),
    ],
)
def test_the_flag_that_was_meant_is_found_and_no_other(unknown: str, meant: str | None) -> None:
    assert hint(unknown, [flag_name(name) for name in Settings.model_fields]) == meant


@pytest.mark.parametrize(
    ("text", "size"),
    [("8k", 8192), ("8K", 8192), ("2m", 2**21), ("1GiB", 2**30), ("512 mb", 2**29), ("7", 7)],
)
def test_sizes_may_be_written_with_a_unit(text: str, size: int) -> None:
    assert load({"host_cache_bytes": text}).host_cache_bytes == size


def test_the_help_has_its_flags_in_sections() -> None:
    parser = argparse.ArgumentParser()
    add_flags(parser)
    text = parser.format_help()
    found = [line.rstrip(":") for line in text.splitlines() if re.fullmatch(r"[A-Z][a-z ]+:", line)]
    assert found == list(SECTIONS.values())
    assert "-ngl" not in text


def parsed(*arguments: str) -> dict[str, Any]:
    """What the flags of a command line give to `load`."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    read = add_flags(parser)
    return read(parser.parse_args(arguments))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"slots": "0"}, "--slots: should be greater than or equal to 1; got '0'"),
        ({"ctx_tokens": "many"}, "--ctx: should be a valid integer"),
        ({"stream_keepalive_s": "inf"}, "--stream-keepalive-s: should be a finite number"),
        ({"model": ""}, "--model: "),
        ({"bind": "80000"}, "--bind: give HOST:PORT"),
        ({"bind": "2001:db8::1"}, "--bind: an IPv6 address goes in brackets"),
        ({"ctx_tokens": "8q"}, "--ctx: should be a valid integer; got '8q'"),
        ({"allowed_origins": "chat.example.org"}, "--allowed-origins: 'chat.example.org' is no origin"),
        ({"allowed_origins": "https://a.example/"}, "--allowed-origins: 'https://a.example/' is no origin"),
        ({"allowed_origins": "*"}, "allowed_origins=* needs api_keys"),
        ({"bind": ":8000"}, "--bind: give HOST:PORT"),
        ({"bind": "localhost:65536"}, "--bind: give HOST:PORT"),
        ({"bind": "::1:8000"}, "--bind: an IPv6 address goes in brackets"),
        ({"bind": "unix:/run/corral"}, "--bind: corral listens on TCP only"),
        ({"certfile": "missing.pem"}, "--certfile: path does not point to a file; got 'missing.pem'"),
        ({"certfile": __file__}, "certfile and keyfile go together"),
        ({"kv_type_v": "q8_0", "flash_attn": "off"}, "kv_type_v=q8_0 needs flash attention"),
        ({"deterministic": True, "kv_cache": "shared"}, "deterministic needs a KV cache for each slot"),
        ({"deterministic": True, "draft_model": "small.gguf"}, "deterministic goes without drafts"),
    ],
)
def test_a_bad_flag_is_one_line_that_names_it(flags: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(flags)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_bad_variable_is_named_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORRAL_SLOTS", "x")
    with pytest.raises(SettingsError, match=r"^CORRAL_SLOTS: should be a valid integer"):
        load()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("slots = 0", "slots in corral.toml: should be"),
        ("slot = 3", "slot in corral.toml: there is no such setting; did you mean slots?"),
        ("[server]\nslots = 3", "server in corral.toml: there is no such setting"),
        ("slots =", "corral.toml is not valid TOML: "),
        ('model = "\udce9"', "corral.toml is not valid TOML: it is not UTF-8"),
    ],
)
def test_a_bad_file_is_one_line_that_names_it(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "corral.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(SettingsError) as caught:
        load()
    assert str(caught.value).startswith(message)


def test_a_named_file_must_be_there() -> None:
    with pytest.raises(SettingsError, match=r"cannot read the settings file no\.toml: No such file"):
        load(config=Path("no.toml"))


def test_a_misspelt_variable_is_warned_of_and_not_fatal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CORRAL_SLOT", "3")
    with caplog.at_level(logging.WARNING):
        assert load().slots == 8
    assert "CORRAL_SLOT: there is no such setting; did you mean CORRAL_SLOTS?" in caplog.text


def test_a_variable_without_the_prefix_is_nobodys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CTX", "4")
    monkeypatch.setenv("CTX_TOKENS", "4")
    assert load().ctx_tokens == 0


def test_every_setting_has_a_unit_or_a_reason_and_a_description() -> None:
    unitless = {"model", "draft_model", "slots", "threads", "gpu_layers", "flash_attn"}
    unitless |= {"kv_type_k", "kv_type_v", "kv_cache", "prefix_reuse", "prompt_lookup", "status_key"}
    unitless |= {"status_content", "bind", "certfile", "keyfile", "connections"}
    unitless |= {
        "connections_per_address",
        "api_keys",
        "allowed_hosts",
        "allowed_origins",
        "log_level",
        "log_format",
        "trace_dir",
        "deterministic",
        "pace",
        "pooling",
        "upstream",
        "upstream_key",
        "upstream_continues",
        "upstreams",
        "models",
    }
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert name in unitless or name.endswith(("_s", "_ms", "_tokens", "_bytes", "_requests")), name


def test_models_are_read_from_the_file_with_what_is_their_own(tmp_path: Path) -> None:
    file = tmp_path / "corral.toml"
    file.write_text(
        'slots = 4\nhost_cache_bytes = "1g"\nmodels_memory_bytes = "8g"\n'
        '[[models]]\nname = "a"\nmodel = "a.gguf"\nctx_tokens = "8k"\nslots = 2\n'
        '[[models]]\nmodel = "b.gguf"\nload = "first-use"\n'
    )
    settings = load(config=file)
    first, second = settings.models
    assert (first.load, second.load) == ("start", "first-use")
    one, two = settings.of(first), settings.of(second)
    assert (one.model, one.ctx_tokens, one.slots) == ("a.gguf", 8192, 2)
    assert (two.model, two.ctx_tokens, two.slots) == ("b.gguf", 0, 4)
    assert one.host_cache_bytes == two.host_cache_bytes == 2**29, "shared out"
    assert settings.models_memory_bytes == 8 * 2**30


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('model = "a.gguf"\n[[models]]\nmodel = "b.gguf"\n', "leave them out where there are models"),
        ('[[models]]\nmodel = "b.gguf"\nctx = 4\n', "models in"),
        ('[[models]]\nflash_attn = "off"\nkv_type_v = "q8_0"\n', "needs flash attention"),
        ("[[models]]\nslots = 0\n", "greater than or equal to 1"),
    ],
)
def test_models_that_cannot_be_are_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "corral.toml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=says):
        load(config=file)


def test_old_names_are_taken_with_a_warning_wherever_they_come_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "corral.toml").write_text('kv_unified = "on"\nkeep_alive_s = 60\nbacklog = 7\n')
    monkeypatch.setenv("CORRAL_QUEUE", "3")
    monkeypatch.setenv("CORRAL_KEEPALIVE_S", "9")
    settings = load({"prefix_cache_bytes": "5", "stream_keepalive_s": "4", "subscriber_events": "9"})
    assert settings.kv_cache == "shared"
    assert settings.idle_connection_s == 60
    assert settings.queue_requests == 3
    assert settings.host_cache_bytes == 5
    assert settings.stream_keepalive_s == 4, "a new name wins over its old one"
    told = caplog.text
    for word in ("CORRAL_QUEUE is called CORRAL_QUEUE_REQUESTS", "kv_unified is called kv_cache"):
        assert word in told
    assert "--prefix-cache-bytes is called --host-cache-bytes" in told
    assert "--subscriber-events has no effect any more" in told
    assert "backlog has no effect any more" in told
    assert "no such setting" not in told


def test_old_flags_are_taken_on_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    read = add_flags(parser)
    given = read(parser.parse_args(["--kv-unified", "off", "--slots", "2", "--backlog", "5"]))
    assert load(given).kv_cache == "per-slot"
    assert load(given).slots == 2
    assert "--kv-unified" not in parser.format_help()


@pytest.mark.parametrize("text", ["false", "0", "no"])
def test_what_is_on_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CORRAL_PREFIX_REUSE", text)
    assert not load().prefix_reuse
    assert not load({"prompt_lookup": text}).prompt_lookup


def test_the_documentation_lists_every_setting_with_its_flag_variable_and_default() -> None:
    rows = [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in DOCS.read_text().splitlines()
        if re.match(r"\| `--", line)
    ]
    documented = {row[2]: row for row in rows}
    assert list(documented) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        flag, variable, _, default, meaning = documented[name]
        assert flag == flag_name(name)
        assert variable == f"CORRAL_{name.upper()}"
        assert default == ("" if field.default in (None, (), "") else str(field.default))
        assert meaning == field.description
