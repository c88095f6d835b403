"""Where an upstream is. It is asked there and nowhere else: no answer of its own leads to another address."""

from dataclasses import dataclass
from urllib.parse import urlsplit

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """One upstream. Its APIs are below `path`, which is empty or begins with a slash."""

    host: str
    port: int
    is_tls: bool
    path: str = ""

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == PORTS["https" if self.is_tls else "http"] else f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """For people and metrics: the same for the same address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}{self.path}"


def address_of(url: str) -> Address:
    """The address that a URL names, with or without `/v1` at its end; raises ValueError, which says why."""
    parts = urlsplit(url.strip())
    if parts.scheme not in PORTS:
        raise ValueError("give http://HOST:PORT or https://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise ValueError("a key goes beside the URL, not into it")
    if parts.query or parts.fragment:
        raise ValueError("a URL of an upstream ends with its path")
    if not parts.hostname:
        raise ValueError("there is no host in it")
    if any(character <= " " or character > "~" for character in parts.netloc + parts.path):
        raise ValueError("write it in visible ASCII characters")
    try:
        parts.hostname.encode("idna")  # as it is when it is resolved
    except UnicodeError:
        raise ValueError("its host is no name: a part of it is empty or too long") from None
    port = parts.port  # raises ValueError for what is no port
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return Address(parts.hostname, port or PORTS[parts.scheme], parts.scheme == "https", path)


def key_of(text: str) -> str:
    """A key as it is sent, without blanks around it; raises ValueError, which does not show it."""
    key = text.strip()
    if any(character <= " " or character > "~" for character in key):
        raise ValueError("a key is written in visible ASCII characters")
    return key
