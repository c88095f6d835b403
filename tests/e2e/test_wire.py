"""The real server over sockets, bare and with TLS: what clients do to them, and that the slot comes back."""

import json
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
import trustme
from tests.e2e.processes import MODEL, QUESTION, Server, corral, curl

pytestmark = pytest.mark.model

SDK = Callable[..., openai.OpenAI]


def ask(server: Server, **fields: object) -> bytes:
    """A request's bytes."""
    body = json.dumps({"model": MODEL, "messages": QUESTION, "max_tokens": 6, **fields}).encode()
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


@pytest.mark.parametrize("streams", [False, True])
def test_a_client_that_half_closes_gets_its_whole_answer(narrow: Server, streams: bool) -> None:
    with narrow.connect() as sock:
        sock.sendall(ask(narrow, stream=streams))
        sock.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    if streams:
        assert b"data: [DONE]\n\n" in body
        assert body.endswith(b"0\r\n\r\n")
    else:
        assert json.loads(body)["usage"]["completion_tokens"] == 6


def close(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_RDWR)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def half_close_and_leave(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("leave", [close, reset, half_close_and_leave])
def test_a_client_that_leaves_is_out_of_the_engine(narrow: Server, leave: Callable[..., None]) -> None:
    with narrow.stream() as running, narrow.stream() as waiting:
        assert json.loads(running.frame())["choices"][0]["delta"].get("content") is not None
        for stream in (waiting, running):
            leave(stream.sock)
    assert narrow.answers_at_once()


def test_who_waits_is_kept_alive(narrow: Server) -> None:
    with narrow.stream(), narrow.stream() as waiting:
        for _ in range(3):
            assert json.loads(waiting.frame())["choices"][0] == {
                "index": 0,
                "delta": {},
                "logprobs": None,
                "finish_reason": None,
            }
    assert narrow.answers_at_once()


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Server, ssl.SSLContext]]:
    """A server with a certificate and a key to the API, and how a client trusts it."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "localhost")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for number, blob in enumerate(certificate.cert_chain_pems):
        blob.write_to_path(tmp_path / "cert.pem", append=number > 0)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    flags = ["--certfile", str(tmp_path / "cert.pem"), "--keyfile", str(tmp_path / "key.pem")]
    server = corral(tmp_path, *flags, "--slots", "1", "--api-keys", "sesame")
    server.scheme = "https"
    try:
        server.until_healthy()
        yield server, context
    finally:
        server.stop()


def test_tls_and_a_key(secure: tuple[Server, ssl.SSLContext], sdk: SDK) -> None:
    server, context = secure
    with openai.DefaultHttpxClient(verify=context) as transport:
        client = sdk(server.api, http_client=transport, api_key="sesame")
        request: dict[str, Any] = {"model": MODEL, "messages": QUESTION}
        with pytest.raises(openai.AuthenticationError) as stranger:
            client.with_options(api_key="abracadabra").chat.completions.create(**request)
        assert stranger.value.code == "invalid_api_key"
        stream = client.chat.completions.create(**request, stream=True, logit_bias={"0": -100, "2": -100})
        assert next(stream).choices[0].delta.role == "assistant"
        stream.close()
        began = time.monotonic()
        assert client.chat.completions.create(**request, max_tokens=3).usage.completion_tokens == 3
        assert time.monotonic() - began < 3
    assert curl(server, YOUR_KEY="sesame").endswith("data: [DONE]\n\n")
