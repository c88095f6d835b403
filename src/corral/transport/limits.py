"""What one connection may cost, and how long it may take its time."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on connections, in time, bytes and number. Immutable; shared by every connection of a server.

    A limit of 0 on `connections` or `connections_per_address` means no limit. In each process of a server
    with several workers the numbers count for that process alone.
    """

    send_timeout_s: float = 10.0
    """Longest a write may wait without moving (16 KiB over HTTP/1.1 and TLS, one byte of a stream over
    HTTP/2). Past it the client counts as stalled: HTTP/1.1 is reset, HTTP/2 loses the stream, or the
    connection if that is what stands still."""

    evict_grace_s: float = 0.25
    """`abort()` over HTTP/2: how long the connection may take to show that it moves before it is dropped
    with all its streams."""

    notsent_lowat_bytes: int = 4096
    """How much of a response may wait unsent: in the kernel for the connection (TCP_NOTSENT_LOWAT), and in
    memory for each HTTP/2 stream."""

    header_timeout_s: float = 10.0
    """From the first byte of a request head, or from the start of the connection, to the end of the head."""

    tls_handshake_timeout_s: float = 10.0
    """From accepting a connection to the end of its TLS handshake."""

    idle_connection_s: float = 75.0
    """How long a connection may stand idle between requests. Longer than the 60 s after which common proxies
    let go of theirs, so that they never write a request to a connection we are closing."""

    connections: int = 4096
    """Connections at a time. One more is answered 503 (cleartext) or closed (TLS)."""

    connections_per_address: int = 2048
    """Connections at a time from one IPv4 address or one IPv6 /64. A reverse proxy is one address."""

    header_bytes: int = 32768
    """Largest request head (HTTP/1.1, else 431), largest decoded header list (HTTP/2)."""

    drain_s: float = 10.0
    """At shutdown, how long running responses may go on."""

    backlog: int = 1024
    """Connections the kernel may hold ready for us to accept."""
