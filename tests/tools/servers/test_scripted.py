import socket

from tools.clients.http1 import chat
from tools.clients.target import Chat
from tools.servers.server import SCRIPTED_COMMAND, serve


async def test_the_scripted_server_takes_the_flags_of_corral() -> None:
    flags = ["--slots=3", "--ctx-tokens=2000", "--stream-keepalive-s=7"]
    async with serve(SCRIPTED_COMMAND, flags) as server:
        with socket.create_connection((server.target.host, server.target.port)) as sock:
            sock.sendall(b"GET /props HTTP/1.0\r\n\r\n")
            answer = b"".join(iter(lambda: sock.recv(65536), b""))
    assert b'"slots":3,"ctx_tokens":2000' in answer
    assert b'"keepalive_s":7.0' in answer


async def test_an_answer_is_as_long_as_its_prompt_says() -> None:
    async with serve(SCRIPTED_COMMAND, ["--script=told"]) as server:
        for tokens in (1, 37):
            messages = [{"role": "system", "content": f"{tokens:07}"}, {"role": "user", "content": "go on"}]
            answer = await chat(server.target, Chat(messages, None, stream=True))
            assert answer.is_whole
            assert len(answer.text) == tokens
