import ssl
from collections.abc import Iterator

import pytest
import trio
import trio.testing
import trustme


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    # Not 0: bytes on the loopback are usually, but not always, delivered before the sender goes on.
    return trio.testing.MockClock(autojump_threshold=0.01)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.fixture
def client_context(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(autouse=True)
def _no_surprises(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """A connection that fails in a way nobody thought of is a failed test."""
    yield
    failed = [r for r in caplog.records if r.getMessage() == "A connection failed"]
    assert not failed, failed[0].exc_info
