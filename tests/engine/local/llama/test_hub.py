"""How people name models on the Hugging Face Hub, and what they are told of a repository with many."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from corral.engine.local.llama import hub
from corral.engine.local.llama.fault import ModelFileError

SITE = "https://huggingface.co/Qwen/Qwen2.5-0.5B-Instruct-GGUF"
REPO = "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF"


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (REPO, REPO),
        (f"{REPO}/a.gguf", f"{REPO}/a.gguf"),
        (f"{SITE}/blob/main/a.gguf", f"{REPO}/a.gguf"),
        (f"{SITE}/resolve/main/q4/a.gguf?download=true", f"{REPO}/q4/a.gguf"),
        (f"{SITE}/tree/main", REPO),
        (f"{SITE}/", REPO),
        ("hf.co/Qwen/Qwen2.5-0.5B-Instruct-GGUF", REPO),
        ("models/a.gguf", None),
        ("https://example.org/a.gguf", None),
    ],
)
def test_a_model_is_named_by_hf_or_by_its_page(given: str, name: str | None) -> None:
    assert hub.named(given) == name


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("Qwen/Qwen2.5-0.5B", "; did you mean hf:Qwen/Qwen2.5-0.5B?"),
        ("Qwen/Qwen2.5-0.5B/a.gguf", "; did you mean hf:Qwen/Qwen2.5-0.5B/a.gguf?"),
        ("/srv/Qwen/a.gguf", ""),
        ("models/a.gguf", ""),
        ("a.gguf", ""),
    ],
)
def test_only_what_looks_like_a_repository_is_taken_for_one(path: str, hint: str) -> None:
    assert hub.hint(path) == hint


@contextmanager
def hub_with(files: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Hub on this machine, whose every repository holds these files of so many bytes."""
    siblings = [{"rfilename": name, "size": size} for name, size in files.items()]
    body = json.dumps({"id": "o/r", "siblings": siblings}).encode()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_line: object) -> None:
            """Say nothing."""

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield
        server.shutdown()


def test_of_a_repository_its_models_are_named_the_smallest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "README.md": 1,
        "m-q8_0-00001-of-00002.gguf": 4_000_000_000,
        "m-q8_0-00002-of-00002.gguf": 3_100_000_000,
        "m-q4_k_m.gguf": 4_400_000_000,
        "mmproj-f16.gguf": 900_000_000,
    }
    with hub_with(files, monkeypatch), pytest.raises(ModelFileError) as caught:
        hub.download("hf:o/r:Q4_K_M")
    assert str(caught.value) == (
        "name a file of o/r, as in hf:o/r/m-q4_k_m.gguf; "
        "there are m-q4_k_m.gguf (4.4 GB), m-q8_0-00001-of-00002.gguf (7.1 GB)"
    )


def test_a_repository_without_a_gguf_file_is_said_to_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub_with({"model.safetensors": 9}, monkeypatch), pytest.raises(ModelFileError) as caught:
        hub.download("hf:Qwen/Qwen2.5-0.5B")
    assert str(caught.value).endswith("https://huggingface.co/models?library=gguf&search=Qwen2.5-0.5B")
