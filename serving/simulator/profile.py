"""What rivals know beforehand: mean lengths of stages and what follows them, of a training trace."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

from agentsys.serving.simulator.trace import Trace, TraceCall, TraceWorkflow

Stage = tuple[str, str]
"""Kind of workflow, and stage of it."""


@dataclass(frozen=True, slots=True)
class StageProfile:
    """Means by stage, in seconds of calls alone on the fastest replica; tools included in ``path``.

    ``prompt`` and ``completion`` are tokens, ``own`` the call, ``path`` the longest way from its end to the
    workflow's, ``work`` all calls that come after it.
    """

    prompt: dict[Stage, float]
    completion: dict[Stage, float]
    own: dict[Stage, float]
    path: dict[Stage, float]
    work: dict[Stage, float]

    @staticmethod
    def of(trace: Trace, call_seconds: Callable[[TraceCall], float]) -> StageProfile:
        """Take the means over a trace."""
        values: dict[str, dict[Stage, list[float]]] = defaultdict(lambda: defaultdict(list))
        for workflow in trace.workflows:
            paths, works = _after(workflow, call_seconds)
            for place, call in enumerate(workflow.calls):
                stage = (workflow.kind, call.stage)
                for name, value in (
                    ("prompt", call.prompt_tokens),
                    ("completion", call.completion_tokens),
                    ("own", call_seconds(call)),
                    ("path", paths[place]),
                    ("work", works[place]),
                ):
                    values[name][stage].append(value)
        means = {name: {stage: fmean(seen) for stage, seen in stages.items()} for name, stages in values.items()}
        return StageProfile(**means)

    def typical(self, stage: Stage) -> TraceCall:
        """Return a call with the stage's mean lengths, the mean over all stages if it was never seen."""
        prompt = self.prompt.get(stage, fmean(self.prompt.values()))
        completion = self.completion.get(stage, fmean(self.completion.values()))
        return TraceCall(stage[1], max(1, round(prompt)), max(1, round(completion)))


def _after(workflow: TraceWorkflow, call_seconds: Callable[[TraceCall], float]) -> tuple[list[float], list[float]]:
    """Return for each call the longest path and the work after it."""
    calls = workflow.calls
    paths, descendants = [0.0] * len(calls), [set[int]() for _ in calls]
    for place in reversed(range(len(calls))):
        call = calls[place]
        for before in call.after:
            paths[before] = max(paths[before], call.tool_seconds + call_seconds(call) + paths[place])
            descendants[before] |= {place} | descendants[place]
    works = [sum(call_seconds(calls[place]) for place in later) for later in descendants]
    return paths, works
