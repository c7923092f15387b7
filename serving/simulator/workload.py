"""A seeded generator of agentic workflows: chains, fans, retry loops, tool waits, text-to-SQL.

Lengths are log-normal. Those of ``data-question`` are of our own recorded run (``ui/recorded/demo.db``: prompts of 489
and 505 tokens, answers of 12 and 14, a query of some tenths of a second between). The other kinds' medians are choices,
in the range of what such stages cost: long prompts and short answers where a model judges, the reverse where it writes.
Their shape for text-to-SQL (retrieval, candidates, revisions, unit tests, evaluation; 8 to 20 calls) follows CHESS
(arXiv 2405.16755). Nothing is taken from anybody's traces.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, Literal

from agentsys.serving.simulator.trace import Trace, TraceCall, TraceWorkflow

Arrivals = Literal["poisson", "bursty", "diurnal"]

TIGHTNESS: Final = (0.6, 1.2, 3.0)
"""Deadlines as multiples of the isolated time, one drawn for each workflow."""

BURST_SHAPE: Final = 0.15
"""Shape of the gamma distribution between bursty arrivals: a coefficient of variation of 2.6."""

DIURNAL_SWING: Final = 0.8
"""How far the diurnal rate goes above and below its mean."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A kind of call: log-normal medians and the deviation of their logarithms, tokens; tool seconds before it."""

    name: str
    prompt: float
    completion: float
    spread: float = 0.4
    tool_seconds: float = 0.0


class WorkflowBuilder:
    """Draws the calls of one workflow, one after another."""

    def __init__(self, spec: WorkloadSpec, chance: random.Random, template: int) -> None:
        self.chance = chance
        self._spec = spec
        self._template = self._scaled(template)
        self._context = self._lognormal(spec.context_tokens, 0.5)
        self.calls: list[TraceCall] = []

    def add(self, stage: Stage, *after: int) -> int:
        """Append a call of this stage after the calls at ``after``; returns its place."""
        shared = self._template + self._context
        most = self._spec.most_tokens
        completion = min(self._lognormal(stage.completion, stage.spread), most // 2)
        prompt = shared + self._lognormal(stage.prompt, stage.spread)
        prompt = min(prompt, most - completion)
        template = min(self._template, prompt - 1)
        wait = stage.tool_seconds * self._spec.tool_scale
        self.calls.append(
            TraceCall(
                stage=stage.name,
                prompt_tokens=prompt,
                completion_tokens=completion,
                after=after,
                tool_seconds=self.chance.lognormvariate(math.log(wait), 0.6) if wait else 0.0,
                template_tokens=template,
                context_tokens=min(self._context, prompt - 1 - template),
            )
        )
        return len(self.calls) - 1

    def fan(self, stage: Stage, count: int, *after: int) -> list[int]:
        """Append ``count`` parallel calls."""
        return [self.add(stage, *after) for _ in range(count)]

    def loop(self, stage: Stage, again: float, most: int, last: int) -> int:
        """Append calls one after another while chance says ``again``; returns the place of the last call."""
        for _ in range(most):
            if self.chance.random() >= again:
                break
            last = self.add(stage, last)
        return last

    def _lognormal(self, median: float, spread: float) -> int:
        return self._scaled(self.chance.lognormvariate(math.log(median), spread))

    def _scaled(self, tokens: float) -> int:
        return max(1, round(tokens * self._spec.length_scale))


def _chain(build: WorkflowBuilder) -> None:
    last = build.add(Stage("plan", 300, 120))
    for _ in range(build.chance.randint(2, 4)):
        last = build.add(Stage("reason", 900, 150, tool_seconds=0.5), last)
    build.add(Stage("write", 1200, 400), last)


def _fan_out(build: WorkflowBuilder) -> None:
    split = build.add(Stage("split", 400, 100))
    parts = build.fan(Stage("map", 1500, 150, spread=0.6), build.chance.randint(3, 8), split)
    build.add(Stage("reduce", 1200, 300), *parts)


def _retry(build: WorkflowBuilder) -> None:
    draft = build.add(Stage("draft", 800, 350))
    last = build.loop(Stage("repair", 1400, 250, tool_seconds=1.0), 0.6, 8, draft)
    build.add(Stage("explain", 700, 120), last)


def _data_question(build: WorkflowBuilder) -> None:
    bid = build.add(Stage("bid", 200, 8))
    plan = build.add(Stage("plan", 350, 13, spread=0.1), bid)
    build.add(Stage("answer", 250, 40, tool_seconds=0.3), plan)


def _text_to_sql(build: WorkflowBuilder) -> None:
    keywords = build.add(Stage("keywords", 200, 40))
    found = build.fan(Stage("retrieve", 900, 60), build.chance.randint(2, 4), keywords)
    candidates = build.fan(Stage("candidate", 2200, 130), build.chance.randint(2, 3), *found)
    revised = [build.loop(Stage("revise", 2000, 110, tool_seconds=0.2), 0.4, 3, one) for one in candidates]
    tests = build.add(Stage("unit-tests", 1500, 220), *revised)
    judged = build.fan(Stage("evaluate", 1300, 50), len(candidates), tests)
    build.add(Stage("choose", 400, 20), *judged)


KINDS: Final[Mapping[str, tuple[int, Callable[[WorkflowBuilder], None]]]] = {
    "chain": (200, _chain),
    "fan-out": (200, _fan_out),
    "retry": (200, _retry),
    "data-question": (100, _data_question),
    "text-to-sql": (400, _text_to_sql),
}
"""Tokens of each kind's template, and what draws its calls."""

MIXED: Final[Mapping[str, float]] = {
    "chain": 0.25,
    "fan-out": 0.2,
    "retry": 0.2,
    "data-question": 0.15,
    "text-to-sql": 0.2,
}
"""Shares of the kinds in a usual workload."""


@dataclass(frozen=True, slots=True)
class WorkloadSpec:
    """What to generate. ``rate`` is workflows a second on average; ``length_scale`` multiplies every token count.

    The workflows themselves depend on ``seed`` alone, so that one seed at two rates is the same work. ``most_tokens``
    bounds prompt and completion together.
    """

    workflows: int = 300
    rate: float = 1.0
    arrivals: Arrivals = "poisson"
    mix: Mapping[str, float] = field(default_factory=lambda: dict(MIXED))
    tenants: int = 4
    tightness: tuple[float, ...] = TIGHTNESS
    length_scale: float = 1.0
    tool_scale: float = 1.0
    context_tokens: float = 300.0
    most_tokens: int = 8192
    diurnal_period: float = 600.0
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = set(self.mix) - set(KINDS)
        if unknown or not any(self.mix.values()):
            raise ValueError(f"mix names {sorted(unknown)}; the kinds of workflow are {', '.join(KINDS)}")
        if self.rate <= 0 or self.length_scale <= 0 or self.tenants < 1 or self.most_tokens < 8:
            raise ValueError("rate and length_scale must be positive, tenants at least 1, most_tokens at least 8")


def generate(spec: WorkloadSpec) -> Trace:
    """Draw a trace; equal specifications give equal traces."""
    times = arrival_times(spec)
    return Trace(tuple(_workflow(spec, number, at) for number, at in enumerate(times)), {"spec": asdict(spec)})


def _workflow(spec: WorkloadSpec, number: int, arrived: float) -> TraceWorkflow:
    chance = random.Random(f"{spec.seed}:workflow:{number}")  # noqa: S311 - reproducible, not secret
    (kind,) = chance.choices(list(spec.mix), list(spec.mix.values()))
    tightness = chance.choice(spec.tightness)
    tenant = f"tenant-{chance.randrange(spec.tenants)}"
    template, draw = KINDS[kind]
    build = WorkflowBuilder(spec, chance, template)
    draw(build)
    return TraceWorkflow(f"{spec.seed}-{number}", kind, arrived, tuple(build.calls), tenant, tightness)


def arrival_times(spec: WorkloadSpec) -> list[float]:
    """Return when each workflow comes: seconds, ascending."""
    chance = random.Random(f"{spec.seed}:arrivals")  # noqa: S311 - reproducible, not secret
    now = 0.0
    times: list[float] = []
    while len(times) < spec.workflows:
        now += _gap(spec, chance)
        if spec.arrivals != "diurnal" or chance.random() < _share_of_peak(now, spec):
            times.append(now)
    return times


def _gap(spec: WorkloadSpec, chance: random.Random) -> float:
    if spec.arrivals == "bursty":
        return chance.gammavariate(BURST_SHAPE, 1 / (BURST_SHAPE * spec.rate))
    if spec.arrivals == "diurnal":  # thinning (Lewis and Shedler 1979): draw at the peak's rate, keep a share
        return chance.expovariate(spec.rate * (1 + DIURNAL_SWING))
    return chance.expovariate(spec.rate)


def _share_of_peak(now: float, spec: WorkloadSpec) -> float:
    wave = math.sin(2 * math.pi * now / spec.diurnal_period)
    return (1 + DIURNAL_SWING * wave) / (1 + DIURNAL_SWING)
