"""Where a server is, and what is asked of it."""

import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec


@dataclass(frozen=True, slots=True)
class Target:
    """A server: where it is and what to call its model. `tls` None is plain text.

    Connections come from the local address `source`, where it is given.
    """

    host: str
    port: int
    path: str = "/v1"
    model: str = "default"
    api_key: str | None = None
    tls: ssl.SSLContext | None = None
    source: str | None = None

    @classmethod
    def from_url(
        cls, base_url: str, *, model: str = "default", api_key: str | None = None, verify: bool = True
    ) -> "Target":
        """`http://host:port[/v1]`, as every OpenAI client takes it. Raises ValueError."""
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError(f"not an http URL: {base_url!r}")
        tls = None
        if url.scheme == "https":
            tls = ssl.create_default_context()
            if not verify:
                tls.check_hostname = False
                tls.verify_mode = ssl.CERT_NONE
        port = url.port or (443 if tls else 80)
        return cls(url.hostname, port, url.path.rstrip("/") or "/v1", model, api_key, tls)

    @property
    def headers(self) -> dict[str, str]:
        """Those of every request, `host` included."""
        headers = {"host": f"{self.host}:{self.port}", "accept": "*/*"}
        if self.api_key:
            headers["authorization"] = f"Bearer {self.api_key}"
        return headers


class Chat(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is asked for: the fields of a chat completion that a load needs, as JSON names them."""

    messages: list[dict[str, str]]
    max_tokens: int | None
    model: str = ""
    temperature: float | None = None
    stream: bool = False
    stream_options: dict[str, bool] | None = None
    return_progress: bool = False
    ignore_eos: bool = False
    response_format: dict[str, Any] | None = None

    def body(self, model: str) -> bytes:
        """The JSON of the request, asking for usage where it streams."""
        options = {"include_usage": True} if self.stream else None
        return msgspec.json.encode(msgspec.structs.replace(self, model=model, stream_options=options))
