"""Labels: what checks and joins of one tool call cost, their share of a run, and how they grow with influencers."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from agentsys.benchmarks.harness import Bar, BenchResult, Options
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import PUBLIC, Label, Readers, join_all
from agentsys.context import Context
from agentsys.gateway import AllowCall, Gateway
from agentsys.policy.documents import read_policy
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import ToolRegistry, tool

MOST_MICROSECONDS: Final = 20.0
MOST_PERCENT: Final = 2.0
MOST_EXPONENT: Final = 1.1
"""Bar: 1 is linear."""
SIZES: Final = (1, 3, 10, 30, 100, 300, 1000)
CALLS: Final = 60
LOOPS: Final = 2000

POLICY: Final = read_policy("""
[domains.contacts]
values = ["ann@example.org", "bob@example.org"]
[endorsers.contact]
domain = "contacts"
[tools.read_mail]
consequential = false
audience = []
source = []
fields = { "*.sender" = ["mail"], "*.body" = ["mail"] }
[tools.send]
audience = ["argument:to"]
declassifies = true
[tools.send.arguments]
to = { role = "target", endorsers = ["contact"] }
subject = { role = "payload" }
body = { role = "payload" }
""")


@tool(effect=EffectClass.IDEMPOTENT)
def send(to: str, subject: str, body: str) -> str:
    """Send a mail nowhere."""
    return "sent"


@tool(effect=EffectClass.IDEMPOTENT)
def read_mail() -> list[dict[str, str]]:
    """Return one mail."""
    return [{"sender": "ann@example.org", "body": "see you"}]


def main(options: Options) -> BenchResult:
    """Measure the label work of one call, its share of whole runs, and its growth."""
    repeats = max(5, options.repeats)
    loops = LOOPS // 10 if options.quick else LOOPS
    calls = {size: [microseconds_of_call(size, loops) for _ in range(repeats)] for size in SIZES}
    exponent = _exponent([(size, statistics.median(figures)) for size, figures in calls.items() if size >= SIZES[2]])
    shares = [share_of_run(CALLS // 4 if options.quick else CALLS) for _ in range(repeats)]
    typical, share = statistics.median(calls[3]), statistics.median(shares)
    return BenchResult(
        name="labels",
        figure=f"{typical:.1f} µs a call, {share:.2f} % of a run, growing with influencers to the power {exponent:.2f}",
        columns=["influencers", "µs a call, median", "least", "most"],
        rows=[[size, statistics.median(took), min(took), max(took)] for size, took in calls.items()],
        bars=[
            Bar("µs of label checks and joins a tool call, 3 influencers", typical, MOST_MICROSECONDS, at_least=False),
            Bar("percent of a run's wall time", share, MOST_PERCENT, at_least=False),
            Bar("exponent of growth, 10 to 1,000 influencers", exponent, MOST_EXPONENT, at_least=False),
        ],
        repetitions={f"{size} influencers, µs": took for size, took in calls.items()} | {"percent of a run": shares},
        notes=[
            "A call: the decision on labels, with what is joined before and after it; validation of arguments aside."
            " Processor time, which others on the machine do not lengthen.",
            "A run: commits to a board in a file, synced; the share counts every join, comparison, reading and writing"
            " of a label and every decision of the gateway, with the cost of measuring each.",
        ],
    )


def microseconds_of_call(influencers: int, loops: int) -> float:
    """Return what the label work of one call costs whose labels have so many influencers."""
    gateway = Gateway(POLICY, ToolRegistry([send]))
    control = Label.trusted("user:owner", PUBLIC)
    labels = _labels(influencers)
    arguments = {"to": "ann@example.org", "subject": "x", "body": "y"}
    proposal: Any = gateway._proposal("send", arguments, control, labels)
    source = Label(frozenset({"mail"}), Readers.of("user:owner"))
    start = time.thread_time()
    for _ in range(loops):
        decision = gateway._decide_call(proposal)
        told = control.join(*labels.values())
        result = told.join(source)
        control.join(result)
    took = time.thread_time() - start
    if not isinstance(decision, AllowCall):
        raise AssertionError(f"the measured call is denied: {decision}")
    return took / loops * 1e6


def _labels(influencers: int) -> dict[str, Label]:
    """Return labels of arguments: a target that was endorsed, a constant, and a payload that many strangers shaped."""
    strangers = Label(frozenset(f"mail:{number}" for number in range(influencers)), Readers.of("user:owner"))
    more = Label(frozenset(f"file:{number}" for number in range(influencers)), Readers.of("user:owner", "user:ann"))
    return {"to": strangers.endorsed("contact", 2.0), "body": join_all([strangers, more])}


def share_of_run(calls: int) -> float:
    """Return how many percent of a run's wall time its label work takes."""
    with tempfile.TemporaryDirectory(prefix="agentsys-labels-") as folder, Board.open(Path(folder) / "b.db") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[send, read_mail], policy=POLICY)
        with _clocked() as spent:
            start = time.perf_counter()
            result = asyncio.run(runtime.run(_work, calls))
            took = time.perf_counter() - start
    if result.status != "done":
        raise AssertionError(f"the measured run failed: {result.failure}")
    return 100.0 * spent[0] / took


async def _work(context: Context, calls: Any) -> None:
    for _ in range(calls // 2):
        mail = await context.call_hidden("read_mail")
        await context.call_hidden("send", to="bob@example.org", subject="fwd", body=mail[0]["body"])


@contextmanager
def _clocked() -> Iterator[list[float]]:
    """Count the seconds inside label work; what is called from inside it counts once."""
    spent, inside = [0.0], [False]
    places: list[tuple[Any, str]] = [
        *((Label, name) for name in ("join", "flows_to", "endorsed", "to_json", "influenced_only_by")),
        (Gateway, "decide"),
        (Gateway, "decide_write"),
        (Gateway, "decide_disclosure"),
    ]
    originals = [(place, name, getattr(place, name)) for place, name in places]
    for place, name, original in originals:
        setattr(place, name, _timed(original, spent, inside))
    try:
        yield spent
    finally:
        for place, name, original in originals:
            setattr(place, name, original)


def _timed(function: Callable[..., Any], spent: list[float], inside: list[bool]) -> Callable[..., Any]:
    def timed(*arguments: Any, **named: Any) -> Any:
        if inside[0]:
            return function(*arguments, **named)
        inside[0] = True
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent[0] += time.perf_counter() - start
            inside[0] = False

    return timed


def _exponent(points: Sequence[tuple[int, float]]) -> float:
    """Return the slope of time against size on logarithmic axes."""
    sizes, times = zip(*points, strict=True)
    return float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
