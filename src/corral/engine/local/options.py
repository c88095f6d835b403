"""What the local engine is told; the fields are settings, by their names."""

from dataclasses import dataclass

from corral.engine.local.pace import PROMISES, PaceName, Promise


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How the local engine runs `slots` sequences at a time; what each field means is in docs/settings.md."""

    slots: int
    pace: PaceName = "balanced"
    step_budget_ms: float | None = None
    prefix_reuse: bool = True
    host_cache_bytes: int = 0
    prompt_lookup: bool = True
    stream_interval_ms: float = 0.0
    deterministic: bool = False

    @property
    def promise(self) -> Promise:
        """What streams are promised while prompts are computed."""
        promise = PROMISES[self.pace]
        if self.step_budget_ms is None:
            return promise
        return Promise(self.step_budget_ms, promise.decode_share)
