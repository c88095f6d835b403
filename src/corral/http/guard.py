"""Who may talk to this server."""

import hmac
import ipaddress
from collections.abc import Iterable

from quart import Request

from corral.errors import Forbidden, Unauthorized


class HostCheck:
    """Refuses requests that came in under a name that is not ours.

    A page that rebinds its own DNS name to this address still sends that name in `Host`; an address typed
    as digits cannot be rebound. So digits pass, and names only if they are known.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {"localhost", *(name.lower() for name in names)}

    def check(self, request: Request) -> None:
        """Raises Forbidden. A request without `Host` passes: no browser sends one."""
        host = request.headers.get("Host", "")
        name = host_name(host)
        if host and "*" not in self._names and not _is_address(name) and name not in self._names:
            raise Forbidden(f"this server does not answer to the name {name!r}; see --allowed-hosts")


class OriginCheck:
    """Refuses what another site's page sends or reads through a visitor's browser.

    There is no CORS here, so a browser would keep the answer from such a page; but the request would have
    been run, and a stream can be timed. `names` are those of our own that a proxy may hide from `Host`.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = {name.lower() for name in names if name != "*"}

    def check(self, request: Request, *, is_page: bool) -> None:
        """Raises Forbidden. A link from elsewhere to a page is fine; only browsers send any of this."""
        origin = request.headers.get("Origin")
        if origin is not None:
            host = origin.partition("://")[2].lower()
            own = request.headers.get("Host", "").lower()
            if not host or (host != own and host_name(host) not in self._names):
                raise Forbidden(f"this server takes no requests from pages of {origin}")
        site = request.headers.get("Sec-Fetch-Site", "none")
        is_link = is_page and request.headers.get("Sec-Fetch-Mode") == "navigate"
        if origin is None and site not in ("none", "same-origin") and not is_link:
            raise Forbidden("this server takes no requests from pages of other sites")


class KeyCheck:
    """Compares API keys in constant time; with no keys configured everybody may come in."""

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = [key.encode() for key in keys]

    def check(self, request: Request) -> None:
        """Raises Unauthorized."""
        if not self._keys:
            return
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        key = (given.strip() if scheme.lower() == "bearer" else request.headers.get("X-Api-Key", "")).encode()
        # Every key is compared, so that the time tells nothing about which one it was.
        matches = [hmac.compare_digest(key, known) for known in self._keys]
        if not any(matches):
            raise Unauthorized("this server needs an API key: send it as 'Authorization: Bearer KEY'")


def client_key(request: Request) -> str:
    """Whose fair share of the queue a request counts against: its API key, else its address."""
    return (
        request.headers.get("Authorization") or request.headers.get("X-Api-Key") or request.remote_addr or ""
    )


def host_name(host: str) -> str:
    """The name in a Host header or a bind address, without port and brackets, in lower case."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.rpartition(":")[0].lower() if host.count(":") == 1 else host.lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
