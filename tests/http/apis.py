"""What the tests need to know of each API that generates: how to ask, and how to read what comes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.harness import Client, Exchange


@dataclass(frozen=True, slots=True)
class Api:
    """One of them. `max_tokens` and `stop` are what it calls these fields; None: it has none."""

    name: str
    path: str
    max_tokens: str
    stop: str | None

    def send(
        self,
        client: Client,
        prompt: str,
        /,
        *,
        stream: bool = False,
        max_tokens: int | None = None,
        stop: str | None = None,
        headers: Mapping[str, str] | None = None,
        buffered_chunks: int = 1000,
        **fields: Any,
    ) -> Exchange:
        body: dict[str, Any] = {"model": "any", "stream": stream, **fields}
        if self.name == "responses":
            body["input"] = prompt
        else:
            body["messages"] = [{"role": "user", "content": prompt}]
        if max_tokens is not None or self.name == "messages":
            body[self.max_tokens] = max_tokens or 100
        if stop is not None:
            assert self.stop is not None
            body[self.stop] = [stop]
        return client.send("POST", self.path, body, headers=headers, buffered_chunks=buffered_chunks)


CHAT = Api("chat", "/v1/chat/completions", "max_tokens", "stop")
MESSAGES = Api("messages", "/v1/messages", "max_tokens", "stop_sequences")
RESPONSES = Api("responses", "/v1/responses", "max_output_tokens", None)
APIS = (CHAT, MESSAGES, RESPONSES)


def frames(raw: bytes) -> list[tuple[str | None, Any]]:
    """The frames of a stream, which must be whole: each with its event's name and its data."""
    assert raw.endswith(b"\n\n") or not raw
    told = []
    for frame in raw.decode().split("\n\n")[:-1]:
        *names, data = frame.split("\n")
        assert data.startswith("data: ")
        assert all(name.startswith("event: ") for name in names)
        name = names[0].removeprefix("event: ") if names else None
        told.append((name, data[6:] if data == "data: [DONE]" else json.loads(data[6:])))
    return told


def text_of(api: Api, raw: bytes) -> str:
    """What a stream said."""
    said = []
    for name, data in frames(raw):
        if api is CHAT and data != "[DONE]":
            said += [choice["delta"].get("content") or "" for choice in data.get("choices", [])]
        elif name == "content_block_delta":
            said.append(data["delta"].get("text", ""))
        elif name == "response.output_text.delta":
            said.append(data["delta"])
    return "".join(said)


def end_of(api: Api, raw: bytes) -> str:
    """How a stream ended, in its API's own words; "nothing" if its last event does not say."""
    told = frames(raw)
    name, last = told[-1] if told else ("", {})
    if api is CHAT:
        if isinstance(last, dict) and "error" in last:
            return f"error {last['error']['code']}"
        if last != "[DONE]":
            return "nothing"
        reasons = [choice for _, data in told[:-1] for choice in data["choices"] if choice["finish_reason"]]
        [choice] = reasons
        return f"{choice['finish_reason']} {choice['stop_reason']}"
    if api is MESSAGES:
        if name == "error":
            return f"error {last['error']['type']}"
        if name != "message_stop":
            return "nothing"
        [delta] = [
            data["delta"] for name, data in told if name == "message_delta" and data["delta"]["stop_reason"]
        ]
        return f"{delta['stop_reason']} {delta['stop_sequence']}"
    if name not in ("response.completed", "response.incomplete", "response.failed"):
        return "nothing"
    return _of_response(last["response"])


def end_of_whole(api: Api, answer: Any) -> str:
    """How an answer in one piece says that it ended, or the error that it is."""
    if api is MESSAGES:
        if answer["type"] == "error":
            return f"error {answer['error']['type']}"
        return f"{answer['stop_reason']} {answer['stop_sequence']}"
    if answer.get("error"):
        return f"error {answer['error']['code']}"
    if api is CHAT:
        [choice] = answer["choices"]
        return f"{choice['finish_reason']} {choice['stop_reason']}"
    return _of_response(answer)


def _of_response(response: Any) -> str:
    if response["error"] is not None:
        return f"error {response['error']['code']}"
    details = response["incomplete_details"]
    return f"{response['status']} {details and details['reason']}"


ASK_OF_TEXTS: list[tuple[str, dict[str, Any]]] = [
    ("/tokenize", {"content": "ab"}),
    ("/detokenize", {"tokens": [97, 98]}),
    ("/apply-template", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/embeddings", {"input": "ab"}),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "hi"}]}),
    ("/v1/responses/input_tokens", {"input": "hi"}),
]
"""What generates nothing and has a model all the same: paths, and bodies without the model's name."""
