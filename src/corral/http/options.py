"""What the HTTP layer needs to know of the settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """Settings by their names, and the model's public name."""

    model: str
    created_s: int
    keepalive_s: float
    body_limit_bytes: int
    body_timeout_s: float
    api_keys: tuple[str, ...]
    host_names: tuple[str, ...]
    status_key: str = ""
    shows_content: bool = False
