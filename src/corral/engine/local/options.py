"""What the local engine is told; the fields are settings, by their names."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How the local engine runs `slots` sequences at a time; what each field means is in docs/settings.md."""

    slots: int
    step_budget_ms: float = 30.0
    prefix_reuse: bool = True
    host_cache_bytes: int = 0
    prompt_lookup: bool = True
    stream_interval_ms: float = 0.0
    deterministic: bool = False
