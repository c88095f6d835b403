"""What is said of upstreams by who runs this server."""

from dataclasses import dataclass

from corral.engine.upstream.address import Address
from corral.engine.upstream.kinds import KindName


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """One upstream. What is None is asked of itself; `key` is never shown.

    One of twice the `weight` gets twice the work. Of `models` the first is what it is asked for.
    """

    address: Address
    key: str = ""
    slots: int | None = None
    weight: float = 1.0
    models: tuple[str, ...] = ()
    kind: KindName | None = None
    ctx_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """The settings of all of them, by their names there.

    A replica that does not say takes `replica_slots` sequences of `replica_ctx_tokens`, 0: any length. One
    that is silent is looked at every `upstream_probe_s`, which is also the longest a look may take. A request
    of which nothing is heard for `upstream_silence_s` has failed; 0: never. With `upstream_continues` an
    answer that breaks off is gone on with at another replica, where it can be.
    """

    replica_slots: int = 8
    replica_ctx_tokens: int = 0
    upstream_probe_s: float = 10.0
    upstream_silence_s: float = 300.0
    upstream_continues: bool = False
