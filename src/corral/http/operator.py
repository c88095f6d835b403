"""Who may watch, who may see content, and who may stop other people's requests.

    status_key set       the key, for everything here
    only api_keys set    one of these
    no key               anybody may watch; to stop a request, one must be on this machine

Content is sent only where `status_content` is on, and then to those with the status key or, without one, to
this machine. The key comes as a bearer token or, since EventSource sends no headers, in a cookie; the cookie
holds a digest under the key, so whoever reads it cannot use the API with it.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable

from quart import Request

from corral.errors import Forbidden, Unauthorized

COOKIE = "corral_status"
_PURPOSE = b"corral /status"
_PROXY_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


class OperatorCheck:
    """Decides by configuration and request alone; all comparisons take constant time."""

    def __init__(self, *, status_key: str, api_keys: Iterable[str], shows_content: bool) -> None:
        keys = [status_key] if status_key else list(api_keys)
        self._cookies = {key.encode(): _digest(key.encode()) for key in keys}
        self._has_status_key = bool(status_key)
        self._shows_content = shows_content

    @property
    def needs_key(self) -> bool:
        return bool(self._cookies)

    def check(self, request: Request) -> None:
        """May it watch? Raises Unauthorized."""
        if self._cookies and not self._has_key(request):
            raise Unauthorized("this needs the status key: enter it on /status, or send it as a bearer token")

    def check_stop(self, request: Request) -> None:
        """May it stop a request? Raises Unauthorized or Forbidden."""
        self.check(request)
        if not self.may_stop(request):
            raise Forbidden("without a status key, requests can only be stopped from this machine")

    def may_stop(self, request: Request) -> bool:
        """Whether it may stop requests; `check` has passed."""
        return bool(self._cookies) or is_local(request)

    def sees_content(self, request: Request) -> bool:
        """Whether prompts and output may be sent to it; `check` has passed."""
        return self._shows_content and (self._has_status_key or is_local(request))

    def cookie(self, key: str) -> str | None:
        """What the cookie of somebody with this key holds; None if it is not one."""
        given, found = key.encode(), None
        for known, cookie in self._cookies.items():
            if hmac.compare_digest(known, given):
                found = cookie
        return found

    def _has_key(self, request: Request) -> bool:
        scheme, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.cookie(bearer.strip()) is not None:
            return True
        given = request.cookies.get(COOKIE, "").encode()
        return any(hmac.compare_digest(cookie.encode(), given) for cookie in self._cookies.values())


def is_local(request: Request) -> bool:
    """Whether it comes from this machine, and not through a proxy on it."""
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback and not any(name in request.headers for name in _PROXY_HEADERS)


def _digest(key: bytes) -> str:
    return hmac.new(key, _PURPOSE, hashlib.sha256).hexdigest()
