"""What the HTTP layer needs to know of the settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """The settings of the HTTP layer, by their names there."""

    stream_keepalive_s: float
    body_limit_bytes: int
    body_memory_bytes: int
    body_timeout_s: float
    api_keys: tuple[str, ...]
    bind: str
    allowed_hosts: tuple[str, ...]
    allowed_origins: tuple[str, ...] = ()
    status_key: str = ""
    status_content: bool = False
