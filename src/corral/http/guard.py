"""Who may talk to this server, and who it is that asks."""

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable
from typing import Final

from quart import Request

from corral.errors import ExpectationFailed, Forbidden, InvalidRequest, Unauthorized
from corral.http.target import Host, read_host
from corral.transport.census import network_of

PORTS = {"http": 80, "https": 443}
CONTAINER_HOSTS = ("host.docker.internal", "host.containers.internal")
"""What containers call the machine that they run on. `.internal` is never in the public DNS, so that no page
can bind such a name to another address."""

_REQUEST_ID: Final = re.compile(r"[!-~]{1,128}")
"""Visible ASCII: it goes into headers and, as one word, into the log."""


class HostCheck:
    """Refuses requests that came in under a name that is not ours.

    A page that rebinds its own DNS name to this address still sends that name in `Host`; an address typed
    as digits cannot be rebound. So digits pass, and names only if they are known.
    """

    def __init__(self, names: Iterable[str]) -> None:
        """`names` may have ports, which do not matter here; "*" lets every name pass."""
        names = list(names)
        self._takes_any = "*" in names
        self._names = {
            "localhost",
            *CONTAINER_HOSTS,
            *(host.name for host in map(read_host, names) if host is not None),
        }

    def check(self, host: str, authority: str | None) -> None:
        """Check a request's `Host`, and the authority of its target where it has one (RFC 9112, 3.2.2).

        Raises Forbidden, or InvalidRequest for what is no host. A request without `Host` passes: no browser
        sends one.
        """
        for given in (host, authority or ""):
            if not given:
                continue
            parsed = read_host(given)
            if parsed is None:
                raise InvalidRequest(f"{given!r} is not a host")
            if not (self._takes_any or parsed.name in self._names or _is_address(parsed.name)):
                raise Forbidden(
                    f"this server does not answer to the name {parsed.name!r}; see --allowed-hosts"
                )


class OriginCheck:
    """Refuses what another site's page sends or reads through a visitor's browser.

    A browser would keep the answer from such a page; but the request would have been run, and a stream can be
    timed. Those of listed origins may use the API (`Cors`). A page is ours if it came from the very scheme,
    name and port that the request goes to. Behind a proxy that hides these, it is ours if its name is one of
    `names`, and its port the one listed with it or the usual one.
    """

    def __init__(self, names: Iterable[str]) -> None:
        names = list(names)
        self._takes_any_name = "*" in names
        self._hosts = {host for host in map(read_host, names) if host is not None}

    def check(self, request: Request, *, is_page: bool, is_let_in: bool = False) -> None:
        """Raises Forbidden. A link from elsewhere to a page is fine; only browsers send any of this.

        `is_let_in`: its one origin is listed as one that may use what is asked for.
        """
        origins = request.headers.getlist("Origin")
        own = request.headers.get("Host", "")
        if is_let_in:
            return
        if len(origins) > 1 or (origins and not self._is_ours(origins[0], request.scheme, own)):
            raise Forbidden(
                f"this server takes no requests from pages of {', '.join(origins)}; see --allowed-origins"
            )
        site = request.headers.get("Sec-Fetch-Site", "none")
        is_link = is_page and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if not origins and site not in ("none", "same-origin") and not is_link:
            raise Forbidden("this server takes no requests from pages of other sites")

    def _is_ours(self, origin: str, own_scheme: str, own: str) -> bool:
        scheme, _, netloc = origin.partition("://")
        host = read_host(netloc)
        if scheme not in PORTS or host is None:
            return False
        is_listed = Host(host.name, None) in self._hosts
        if host == read_host(own):
            # Another scheme is ours where TLS may end at a proxy that hands `Host` on.
            return scheme == own_scheme or is_listed or self._takes_any_name
        return host in self._hosts or (is_listed and host.port in (None, PORTS[scheme]))


class KeyCheck:
    """Compares API keys in constant time; with no keys configured everybody may come in."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = {key.encode(): f"key {_digest(key)}" for key in keys}

    def check(self, request: Request) -> str | None:
        """Raises Unauthorized. Returns who has the key that matched, None if no key is needed."""
        if not self._keys:
            return None
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        given = [bearer.strip() if scheme.lower() == "bearer" else "", request.headers.get("X-Api-Key", "")]
        keys = [key.encode("latin-1", "replace") for key in given]  # a header's text is its bytes in Latin-1
        # Every key is compared, so that the time tells nothing about which one it was.
        owners = [
            owner for key in keys for known, owner in self._keys.items() if hmac.compare_digest(key, known)
        ]
        if not owners:
            raise Unauthorized(
                "this server needs an API key: send it as 'Authorization: Bearer KEY' or 'X-Api-Key: KEY'"
            )
        return owners[0]


def check_expectation(request: Request) -> None:
    """Raises ExpectationFailed for what the transport does not do by itself (RFC 9110, 10.1.1)."""
    expected = request.headers.get("Expect", "100-continue")
    if expected.lower() != "100-continue":
        raise ExpectationFailed(f"this server does not know the expectation {expected!r}")


def request_id_of(request: Request) -> str:
    """The name that a request came with (`X-Request-Id`), or a new one where it has none that will do."""
    given = request.headers.get("X-Request-Id", "")
    return given if _REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def client_of(request: Request, key_owner: str | None) -> str:
    """Whose fair share a request counts against: of the key that matched, else of the address it came from.

    Never of a header as it stands: whoever writes those could be as many clients as they like.
    """
    return key_owner or network_of(request.remote_addr) or ""


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
