"""What steps cost on this machine with this model: learned while they run, and nowhere written down as law.

    costs.step_ms(rows, depth)        a decode step of so many rows, each of which attends to `depth` cells
    costs.prefill_ms(tokens, depth)   a prefill step of so many tokens, behind `depth` cells
    costs.copy_ms(tokens)             moving so much of a sequence between the KV cache and the host's memory

Pure: the worker says how long each step took, and everything that weighs one thing against another asks here:
how much prefill goes into a step (pace.py), how long a draft may be (drafts/), what may stay in the KV cache
and what is worth saving (cache/).

A step's time has two parts. One depends on how many tokens it computes: the weights are read once for all of
them, kernels take them in tiles, and on a GPU the first hundred cost next to nothing. That is a curve through
a few sizes. The other is attention: a fixed time for each token and each cell that it looks at, one in steps
of fewer than WIDE_TOKENS of a prompt and in steps that decode, another one in wider steps. It is told apart
by how much longer steps of one size take when they look at more cells.

Before the first step all of it is guessed from a Seed. Its scale means nothing: the first step that was
measured gives all curves theirs. Its shape holds where nothing was measured: a size that was not takes the
factor between seed and truth of its measured neighbours. What was measured long ago counts no more, as the
machine may have had more to do then.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

SMOOTHING = 0.2
MOST_TRUST = 20.0  # measurements; more of them do not make a size more certain
FADE = 0.998  # of that trust is left after each step of another size: the last of it in some 2,000 steps
FADE_STEPS = 16  # are counted together
LEAST_MOVE = 0.01  # of a factor, before the curve is bent again
LEAST_TRUST = 0.5
MEAN_WEIGHT = 0.02  # of a step, in what steps of its size look at and take in the mean
SEED_DEPTH = 500.0  # cells: contexts have to differ so much before they tell more of attention than the seed
LEAST_KERNELS = 0.05  # of a step's time is not attention, at least
LEAST_CELL_MS = 1e-9
MOST_ATTENTION = 0.5  # of a step's time, as far as it is only guessed by the seed
MOST_KIN_ATTENTION = 0.9  # the same, as far as it is guessed by what steps with the same kernel took
OUTLIER = 3.0  # a step that takes so many times as long as expected was disturbed by something else
TILE_TOKENS = 16  # budgets are whole tiles: kernels compute them so, and what is in between costs no less
LEAST_TOKENS = 4  # of a prefill step, whatever they cost: it must advance
WIDE_TOKENS = 64
"""From so many tokens on llama.cpp computes attention in tiles on a CPU (ggml's GGML_FA_TILE_Q), and in
smaller steps token by token: there each cell takes up to ten times as long. So a step of 64 may take half as
long as one of 63, and a fifth deep in a context."""
HARDLY_QUICKER = 1.5  # a chunk is wide where that takes at most so many times as long as TILE_TOKENS
FULL_SPEED = 1.1
"""A chunk is large enough where a token costs at most so many times the least it can cost."""


@dataclass(frozen=True, slots=True)
class Seed:
    """The shape of the costs somewhere, in units of a decode step of one row without context there.

    `steps` are decode steps by their rows and `prefills` prefill steps by their tokens, both without what
    attention takes: that is `step_cell` or `prefill_cell` for each token and each cell it looks at, and
    `narrow_cell` in prefill steps of fewer than WIDE_TOKENS. `unit_ms` is what one unit may be before
    anything was measured, and `copy_token` what a copied token takes of it.
    """

    steps: Mapping[int, float]
    prefills: Mapping[int, float]
    step_cell: float
    prefill_cell: float
    narrow_cell: float
    copy_token: float
    unit_ms: float


SEED = Seed(
    steps={1: 1.0, 2: 1.5, 3: 2.0, 4: 2.4, 8: 3.7, 12: 5.1, 16: 5.9, 24: 8.2, 32: 10.2}
    | {48: 14.0, 64: 17.7, 96: 26.5, 128: 35.0, 256: 70.0, 512: 140.0},
    prefills={1: 1.0, 4: 1.6, 8: 2.3, 16: 3.5, 32: 6.6, 63: 11.1, 64: 11.2, 128: 21.8, 256: 43.6, 512: 83.0},
    step_cell=0.0007,
    prefill_cell=0.0003,
    narrow_cell=0.0007,
    copy_token=0.00034,
    unit_ms=6.0,
)
"""SmolLM2-135M Q4_0 on two cores: docs/benchmarks.md, "What a step costs", and the table of long contexts in
docs/engine.md. Steps of more than 16 rows were not measured there; they grow from there as prefill does.
Narrow steps of a prompt and steps that decode have one kernel for attention."""


@dataclass(frozen=True, slots=True)
class StepTime:
    """What a step of so many tokens took: one of a prompt's, or one of as many sequences that decode."""

    tokens: int
    is_prefill: bool
    elapsed_ms: float


class _Mean:
    """Of steps of one size: what a token looked at and took, in the mean."""

    __slots__ = ("depth", "seen", "token_ms")

    def __init__(self) -> None:
        self.seen = 0
        self.depth = 0.0
        self.token_ms = 0.0

    def observe(self, depth: float, token_ms: float) -> tuple[float, float]:
        """Take a step in; how much deeper and slower it was than those before it."""
        self.seen += 1
        weight = max(MEAN_WEIGHT, 1 / self.seen)
        deeper, slower = depth - self.depth, token_ms - self.token_ms
        self.depth += weight * deeper
        self.token_ms += weight * slower
        return (0.0, 0.0) if self.seen == 1 else (deeper, slower)


class _Attention:
    """What a token takes for each cell it looks at: the slope between depth and time in steps of one size."""

    def __init__(self) -> None:
        self._means: dict[int, _Mean] = {}
        self._variance = 0.0
        self._covariance = 0.0
        self._most_ms = math.inf
        """With more than this attention alone would have taken longer than a whole step did."""

    def observe(self, size: int, depth: float, token_ms: float) -> None:
        """A token of a step took so long."""
        if depth >= 1:
            self._most_ms = min(self._most_ms, token_ms / depth)
        mean = self._means.get(size)
        if mean is None:
            mean = self._means[size] = _Mean()
        deeper, slower = mean.observe(depth, token_ms)
        self._variance = FADE * self._variance + deeper * deeper
        self._covariance = FADE * self._covariance + deeper * slower

    def steps(self) -> list[tuple[int, _Mean]]:
        """The steps so far, by their sizes."""
        return list(self._means.items())

    def cell_ms(self, guess_ms: float, most: float = MOST_ATTENTION) -> float:
        """What was learned, held against a guess that counts as one step that was SEED_DEPTH deeper, and that
        is at most such a share of a step."""
        guess_ms = min(guess_ms, most * self._most_ms)
        cell_ms = (SEED_DEPTH**2 * guess_ms + self._covariance) / (SEED_DEPTH**2 + self._variance)
        return max(cell_ms, LEAST_CELL_MS)


class Curve:
    """Milliseconds by size and depth: the shape of a seed, bent and scaled by what was measured.

    `cell_ratios` are what attention takes in narrow steps, and in those from `wide` tokens on.
    """

    def __init__(
        self,
        ratios: Mapping[int, float],
        cell_ratios: tuple[float, float],
        unit_ms: float,
        *,
        wide: float = math.inf,
    ) -> None:
        self.sizes = tuple(ratios)
        self._wide = wide
        self._cells_ms = [ratio * unit_ms for ratio in cell_ratios]
        """What attention takes for each token and each cell it looks at, in narrow and in wide steps."""
        self.is_measured = False
        self._cell_ratios = cell_ratios
        self._narrow_guess_ms: float | None = None
        self._ratios = list(ratios.values())
        # By size: how many ms a unit of the seed is, and how many recent measurements that stands on.
        self._factors = [unit_ms] * len(ratios)
        self._trust = [0.0] * len(ratios)
        self._kernels_ms = [ratio * unit_ms for ratio in self._ratios]
        self._quickest_ms = unit_ms
        """The least that a unit of the seed was measured to take: in steps so large that they do not wait for
        the weights. Attention does not wait for them either."""
        self._moved = 0.0
        """By how much of themselves factors have moved since the curve was bent."""
        self._observed = 0
        self._attention = _Attention(), _Attention()

    def cell_ms(self, size: int) -> float:
        """What attention takes in a step of such a size, for each token and each cell it looks at."""
        return self._cells_ms[size >= self._wide]

    def ms(self, size: int, depth: float) -> float:
        """A step of `size` tokens, each of which looks at `depth` cells."""
        return self._kernels(size) + self.cell_ms(size) * size * depth

    def by_size(self, depth: float) -> list[tuple[int, float]]:
        """Each of the `sizes` with its ms."""
        if self._moved > LEAST_MOVE:
            self._bend()
        return [
            (size, ms + self.cell_ms(size) * depth * size)
            for size, ms in zip(self.sizes, self._kernels_ms, strict=True)
        ]

    def trust(self, index: int) -> float:
        """How many recent measurements there are of one of the `sizes`."""
        return self._trust[index]

    def assume(self, unit_ms: float) -> None:
        """Take another scale, before anything was measured."""
        self._factors = [unit_ms] * len(self._ratios)
        self._kernels_ms = [ratio * unit_ms for ratio in self._ratios]
        self._quickest_ms = unit_ms
        self._cells_ms = [ratio * unit_ms for ratio in self._cell_ratios]

    def guess_narrow(self, cell_ms: float) -> None:
        """Take another guess of attention in narrow steps, as far as it is not measured."""
        self._narrow_guess_ms = cell_ms
        self._cells_ms[0] = self._attention[0].cell_ms(cell_ms, MOST_KIN_ATTENTION)

    def observe(self, size: int, depth: float, elapsed_ms: float) -> None:
        """A step was measured."""
        index, weight = self._place(size)
        ratio = self._between(self._ratios, size, index, weight)
        is_wide = size >= self._wide
        if not self.is_measured:
            self.assume(elapsed_ms / (ratio + self._cell_ratios[is_wide] * size * depth))
            self.is_measured = True
        if self._trust[index] > MOST_TRUST / 2:
            elapsed_ms = min(elapsed_ms, OUTLIER * self.ms(size, depth))
        self._attention[is_wide].observe(size, depth, elapsed_ms / size)
        if is_wide or self._narrow_guess_ms is None:
            guess = self._cell_ratios[is_wide] * self._quickest_ms, MOST_ATTENTION
        else:
            guess = self._narrow_guess_ms, MOST_KIN_ATTENTION
        cell_ms = self._cells_ms[is_wide] = self._attention[is_wide].cell_ms(*guess)
        factor = max(elapsed_ms - cell_ms * size * depth, LEAST_KERNELS * elapsed_ms) / ratio
        self._observed += 1
        if self._observed % FADE_STEPS == 0:
            self._trust = [FADE**FADE_STEPS * trust for trust in self._trust]
            self._moved = 1.0
        for own, part in ((index, 1 - weight), (index + 1, weight)):
            if part > 0:
                trust = self._trust[own] + part
                change = max(SMOOTHING, 1 / trust) * part * (factor - self._factors[own])
                self._factors[own] += change
                self._moved += abs(change) / self._factors[own]
                if self._trust[own] < LEAST_TRUST:
                    self._moved = 1.0
                self._trust[own] = min(trust, MOST_TRUST)

    def spent_ms(self) -> tuple[float, float]:
        """What all steps so far took, disturbances as far as they were believed, and would take by now."""
        steps = [step for attention in self._attention for step in attention.steps()]
        spent = sum(mean.seen * size * mean.token_ms for size, mean in steps)
        return spent, sum(mean.seen * self.ms(size, mean.depth) for size, mean in steps)

    def _kernels(self, size: int) -> float:
        if self._moved > LEAST_MOVE:
            self._bend()
        return self._at(self._kernels_ms, size)

    def _bend(self) -> None:
        """Draw the seed's shape through what was measured; a larger step never takes less time, unless it is
        the first wide one."""
        known = [index for index, trust in enumerate(self._trust) if trust >= LEAST_TRUST]
        split = next((index for index, size in enumerate(self.sizes) if size >= self._wide), 0)
        if known[0] < split <= known[-1]:
            narrow = [index for index in known if index < split]
            self._kernels_ms = self._drawn(narrow, 0, split)
            self._kernels_ms += self._drawn(known[len(narrow) :], split, len(self.sizes))
        else:
            self._kernels_ms = self._drawn(known, 0, len(self.sizes))
        self._quickest_ms = min(self._factors[index] for index in known)
        self._moved = 0.0

    def _drawn(self, known: Sequence[int], start: int, stop: int) -> list[float]:
        """The times of the sizes from `start` to `stop`, some of which are `known`."""
        ratios = self._ratios
        rising = _rising([(self._factors[index] * ratios[index], self._trust[index]) for index in known])
        factors = {index: ms / ratios[index] for index, ms in zip(known, rising, strict=True)}
        times = [factors[known[0]] * ratio for ratio in ratios[start : known[0] + 1]]
        for low, high in pairwise(known):
            floor_ms = times[-1]
            ceiling_ms = factors[high] * ratios[high]
            slope = (factors[high] - factors[low]) / (high - low)
            for index in range(low + 1, high):
                time_ms = (factors[low] + slope * (index - low)) * ratios[index]
                floor_ms = min(max(floor_ms, time_ms), ceiling_ms)
                times.append(floor_ms)
            times.append(ceiling_ms)
        last_ms, last = times[-1], known[-1]
        return times + [last_ms * ratio / ratios[last] for ratio in ratios[last + 1 : stop]]

    def _place(self, size: int) -> tuple[int, float]:
        """Between which sizes one is: the index of the lower, and its distance from there, 0 to 1."""
        index = bisect_right(self.sizes, size) - 1
        if index + 1 == len(self.sizes):
            return index, 0.0
        low, high = self.sizes[index], self.sizes[index + 1]
        return index, (size - low) / (high - low)

    def _at(self, values: list[float], size: int) -> float:
        return self._between(values, size, *self._place(size))

    def _between(self, values: list[float], size: int, index: int, weight: float) -> float:
        value = values[index]
        if weight:
            return value + weight * (values[index + 1] - value)
        if index + 1 == len(values):
            return value * size / self.sizes[index]  # a larger step than any is computed in several passes
        return value


def _rising(measured: Sequence[tuple[float, float]]) -> list[float]:
    """The times that do not fall and are nearest to those `measured`, each with its weight, of ever larger
    steps. Where one falls, the machine was slower when the other was measured, and both take their mean."""
    pools: list[tuple[float, float, int]] = []
    for ms, weight in measured:
        steps = 1
        while pools and pools[-1][0] > ms:
            last_ms, last_weight, last_steps = pools.pop()
            ms = (last_weight * last_ms + weight * ms) / (last_weight + weight)
            weight += last_weight
            steps += last_steps
        pools.append((ms, weight, steps))
    return [ms for ms, _, steps in pools for _ in range(steps)]


class Costs:
    """What a step, a prefill and a copy cost. Not thread-safe: the engine's thread owns it."""

    def __init__(self, seed: Seed = SEED) -> None:
        self._steps = Curve(seed.steps, (seed.step_cell, seed.step_cell), seed.unit_ms)
        self._prefills = Curve(
            seed.prefills, (seed.narrow_cell, seed.prefill_cell), seed.unit_ms, wide=WIDE_TOKENS
        )
        self._seed = seed
        self._narrow_by_step = seed.narrow_cell / max(seed.step_cell, LEAST_CELL_MS / seed.unit_ms)
        self._copy_token_ms: float | None = None

    def step_sizes(self, depth: float) -> list[tuple[int, float]]:
        """Rows at which a decode step is as full as it can be for its time, ascending, with that time."""
        return self._steps.by_size(depth)

    def step_ms(self, rows: int, depth: float = 0.0) -> float:
        """A decode step of `rows` tokens, at least one, each of which looks at `depth` cells."""
        return self._steps.ms(rows, depth)

    def prefill_ms(self, tokens: int, depth: float = 0.0) -> float:
        """A prefill step of `tokens`, at least one, that come behind `depth` cells and see each other."""
        return self._prefills.ms(tokens, depth + tokens / 2)

    def copy_ms(self, tokens: int) -> float:
        """Saving or loading so much of a sequence."""
        if self._copy_token_ms is None:
            return tokens * self._seed.copy_token * self._steps.ms(1, 0)
        return tokens * self._copy_token_ms

    def observe_step(self, rows: int, depth: float, elapsed_ms: float) -> None:
        """Learn from a decode step."""
        self._steps.observe(rows, depth, elapsed_ms)
        if not self._prefills.is_measured:
            self._prefills.assume(self._steps.ms(1, 0))
        self._prefills.guess_narrow(self._narrow_by_step * self._steps.cell_ms(rows))

    def observe_prefill(self, tokens: int, depth: float, elapsed_ms: float) -> None:
        """Learn from a prefill step."""
        self._prefills.observe(tokens, depth + tokens / 2, elapsed_ms)
        if not self._steps.is_measured:
            self._steps.assume(self._prefills.ms(1, 0))

    def observe_copy(self, tokens: int, elapsed_ms: float) -> None:
        """Learn from a sequence of `tokens` that was saved or loaded."""
        token_ms = elapsed_ms / tokens
        if self._copy_token_ms is None:
            self._copy_token_ms = token_ms
        self._copy_token_ms += SMOOTHING * (token_ms - self._copy_token_ms)

    def observe_times(self, times: Iterable[StepTime]) -> None:
        """Learn from steps on an empty cache."""
        for step in times:
            observe = self.observe_prefill if step.is_prefill else self.observe_step
            observe(step.tokens, 0.0, step.elapsed_ms)

    # What follows from it

    def prefill_tokens(self, budget_ms: float, depth: float, most: int) -> int:
        """How many tokens a prefill step may have to end within its budget: whole tiles, at most `most`.

        WIDE_TOKENS also where these take longer, if less is hardly quicker: else it would never be done.
        """
        low, high = LEAST_TOKENS, most
        if most >= WIDE_TOKENS:
            wide_ms = self.prefill_ms(WIDE_TOKENS, depth)
            if wide_ms <= max(budget_ms, HARDLY_QUICKER * self.prefill_ms(TILE_TOKENS, depth)):
                low = WIDE_TOKENS
            else:
                high = WIDE_TOKENS - 1
        if self.prefill_ms(high, depth) <= budget_ms:
            low = high
        while high - low > 1:
            middle = (low + high) // 2
            if self.prefill_ms(middle, depth) <= budget_ms:
                low = middle
            else:
                high = middle
        granule = TILE_TOKENS if low >= TILE_TOKENS else LEAST_TOKENS
        return low if low == most else low - low % granule

    def full_speed_tokens(self, most: int) -> int:
        """The least chunk in which a token costs hardly more than in any other of at most `most`."""
        sizes = [size for size in self._prefills.sizes if size <= most and size != WIDE_TOKENS - 1]
        token_ms = {size: self.prefill_ms(size) / size for size in sizes}
        return next(size for size in sizes if token_ms[size] <= FULL_SPEED * min(token_ms.values()))

    def idle_cells(self, rows: int, share: float) -> int:
        """Cells of no use by which attention makes a step of `rows` longer by `share` of its time."""
        return int(share * self.step_ms(rows) / (rows * self._steps.cell_ms(rows)))

    def table(self) -> str:
        """What was learned, to be read: sizes that were measured bear a star."""
        lines = ["      size   decode ms   prefill ms"]
        for size in sorted({*self._steps.sizes, *self._prefills.sizes}):
            step = self._cell(self._steps, size, self.step_ms(size))
            prefill = self._cell(self._prefills, size, self.prefill_ms(size))
            lines.append(f"{size:>10} {step:>11} {prefill:>12}")
        lines.append(
            f"attention, us per token and cell: decode {1e3 * self._steps.cell_ms(1):.2f}, "
            f"prefill {1e3 * self._prefills.cell_ms(WIDE_TOKENS):.2f}, "
            f"in narrow steps {1e3 * self._prefills.cell_ms(1):.2f}; "
            f"copying {1e3 * self.copy_ms(1):.1f} us a token"
        )
        spent = [
            f"{kind} {spent_ms:.0f} ms, by this table {by_now_ms:.0f}"
            for kind, curve in (("decode", self._steps), ("prefill", self._prefills))
            for spent_ms, by_now_ms in (curve.spent_ms(),)
        ]
        lines.append(f"all steps: {'; '.join(spent)}")
        return "\n".join(lines)

    @staticmethod
    def _cell(curve: Curve, size: int, ms: float) -> str:
        is_known = size in curve.sizes and curve.trust(curve.sizes.index(size)) >= LEAST_TRUST
        return f"{ms:.1f}{'*' if is_known else ' '}"
