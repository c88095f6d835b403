"""How many connections there are, in total and by address: who may come in."""

import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from corral.transport.limits import Limits

# A refused client gets a short while to read its 503. This many may do so at a time; past that a refusal is
# a reset, so that a flood of refused clients costs no more than it must.
REFUSALS = 64


class Census:
    """Counts the open connections of one process. Nothing here blocks or is a checkpoint."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._total = 0
        self._refusals = 0
        self._by_address: Counter[str] = Counter()

    @property
    def connections(self) -> int:
        """How many connections are in at the moment."""
        return self._total

    @contextmanager
    def seat(self, host: str | None) -> Iterator[bool]:
        """Count one connection from `host` for the length of the block; yield False if it is one too many.

        `host` is None where there is no address (a Unix socket); only the total counts then.
        """
        address = network_of(host)
        limits = self._limits
        full = 0 < limits.connections <= self._total
        if address is not None:
            full = full or 0 < limits.connections_per_address <= self._by_address[address]
        if full:
            yield False
            return
        self._total += 1
        if address is not None:
            self._by_address[address] += 1
        try:
            yield True
        finally:
            self._total -= 1
            if address is not None:
                self._by_address[address] -= 1
                if not self._by_address[address]:
                    del self._by_address[address]

    @contextmanager
    def refusal(self) -> Iterator[bool]:
        """Count one refusal for the length of the block; yield False if there are too many to be polite."""
        self._refusals += 1
        try:
            yield self._refusals <= REFUSALS
        finally:
            self._refusals -= 1


def network_of(host: str | None) -> str | None:
    """What counts as one address: an IPv4 address, or the /64 that one IPv6 host usually owns."""
    if host is None:
        return None
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)
