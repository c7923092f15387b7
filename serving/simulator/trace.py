"""Workflows as plain data: what is called after what, how long prompts and answers are, when workflows come.

A trace knows everything; a policy does not. :class:`Unfolding` reveals a workflow call by call, as it happens online.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, Final

from agentsys.errors import ServingError, cause_in_file

FORMAT: Final = 1


class TraceError(ServingError):
    """A trace file cannot be read, or what it says cannot be run."""

    code = "AGS-0470"
    remedy = "Write it anew with `agentsys.serving.simulator.workload.generate(…).save(path)`."


@dataclass(frozen=True, slots=True)
class TraceCall:
    """One model call. ``after`` are the calls (by place in the workflow) whose answers it needs.

    ``tool_seconds`` pass between the last of those answers and the call. The prompt begins with ``template_tokens``
    that all calls of the workflow's kind share and ``context_tokens`` that all calls of this workflow share.
    """

    stage: str
    prompt_tokens: int
    completion_tokens: int
    after: tuple[int, ...] = ()
    tool_seconds: float = 0.0
    template_tokens: int = 0
    context_tokens: int = 0

    def __post_init__(self) -> None:
        shared = self.template_tokens + self.context_tokens
        if self.completion_tokens < 1 or not 0 <= shared < self.prompt_tokens or self.tool_seconds < 0:
            raise TraceError(
                f"a call of stage {self.stage!r} has {self.prompt_tokens} prompt tokens ({shared} shared), "
                f"{self.completion_tokens} completion tokens and {self.tool_seconds} tool seconds."
            )


@dataclass(frozen=True, slots=True)
class TraceWorkflow:
    """One workflow. ``arrived`` is seconds from the trace's start.

    Its deadline is ``arrived + scale × tightness × isolated seconds``: see :meth:`Trace.deadlines`.
    """

    workflow: str
    kind: str
    arrived: float
    calls: tuple[TraceCall, ...]
    tenant: str = ""
    tightness: float = 1.0

    def __post_init__(self) -> None:
        for place, call in enumerate(self.calls):
            if any(not 0 <= before < place for before in call.after):
                raise TraceError(f"call {place} of workflow {self.workflow!r} comes after {call.after}.")
        if not self.calls or self.arrived < 0:
            raise TraceError(f"workflow {self.workflow!r} has {len(self.calls)} calls and arrives at {self.arrived}.")

    def critical_path(self, call_seconds: Callable[[TraceCall], float]) -> float:
        """Return the seconds of the longest path of calls and tools, a call taking ``call_seconds``."""
        ends: list[float] = []
        for call in self.calls:
            ready = max((ends[before] for before in call.after), default=0.0)
            ends.append(ready + call.tool_seconds + call_seconds(call))
        return max(ends)

    def segments(self, place: int) -> Iterator[tuple[str, int]]:
        """Yield the prompt's parts as name and token count; parts of one name hold the same tokens."""
        call = self.calls[place]
        yield f"template:{self.kind}", call.template_tokens
        yield f"context:{self.workflow}", call.context_tokens
        yield f"own:{self.workflow}:{place}", call.prompt_tokens - call.template_tokens - call.context_tokens

    def prompt(self, place: int, vocabulary: int) -> list[int]:
        """Return token ids below ``vocabulary`` for a real engine, equal where prompts share a prefix."""
        return [token for name, count in self.segments(place) for token in _tokens(name, count, vocabulary)]


@lru_cache(maxsize=256)
def _tokens(name: str, count: int, vocabulary: int) -> tuple[int, ...]:
    # The same name with another count has to begin with the same tokens.
    chance = random.Random(name)  # noqa: S311 - tokens of a prompt that nobody reads
    return tuple(islice(iter(lambda: chance.randrange(vocabulary), -1), count))


class Unfolding:
    """Reveals one workflow online: which calls can be issued now, and after how many seconds of tools."""

    def __init__(self, workflow: TraceWorkflow) -> None:
        self.workflow = workflow
        self._missing = [len(call.after) for call in workflow.calls]
        self._followers: list[list[int]] = [[] for _ in workflow.calls]
        for place, call in enumerate(workflow.calls):
            for before in call.after:
                self._followers[before].append(place)
        self._unfinished = set(range(len(workflow.calls)))

    @property
    def done(self) -> bool:
        return not self._unfinished

    def begin(self) -> list[tuple[int, float]]:
        """Return the first calls as place and seconds until they are issued."""
        return [(place, call.tool_seconds) for place, call in enumerate(self.workflow.calls) if not call.after]

    def ended(self, place: int) -> list[tuple[int, float]]:
        """Note that a call was answered; return those that this makes possible, as :meth:`begin` does."""
        if place not in self._unfinished:
            raise TraceError(f"call {place} of workflow {self.workflow.workflow!r} was answered twice.")
        self._unfinished.remove(place)
        ready = []
        for follower in self._followers[place]:
            self._missing[follower] -= 1
            if not self._missing[follower]:
                ready.append((follower, self.workflow.calls[follower].tool_seconds))
        return ready


@dataclass(frozen=True, slots=True)
class Trace:
    """Workflows in order of arrival. ``about`` says how they came to be; nothing reads it."""

    workflows: tuple[TraceWorkflow, ...]
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        return sum(len(workflow.calls) for workflow in self.workflows)

    def deadlines(self, call_seconds: Callable[[TraceCall], float], scale: float) -> dict[str, float]:
        """Return each workflow's deadline in seconds from the trace's start, isolated calls taking ``call_seconds``."""
        return {
            one.workflow: one.arrived + scale * one.tightness * one.critical_path(call_seconds)
            for one in self.workflows
        }

    def faster(self, times: float) -> Trace:
        """Return the same workflows arriving ``times`` as fast."""
        return Trace(tuple(replace(one, arrived=one.arrived / times) for one in self.workflows), self.about)

    def save(self, path: Path) -> None:
        """Write the trace as JSON."""
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}) + "\n", encoding="utf-8")

    @staticmethod
    def load(path: Path) -> Trace:
        """Read what :meth:`save` wrote. Raises :class:`TraceError`."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise TraceError(f"{path} is a trace of format {data['format']!r}, and this version reads {FORMAT}.")
            return Trace(tuple(_workflow(one) for one in data["workflows"]), data["about"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise TraceError(f"{path} is no trace: {cause_in_file(error)}.") from error


def _workflow(data: dict[str, Any]) -> TraceWorkflow:
    calls = [TraceCall(**{**call, "after": tuple(call.get("after", ()))}) for call in data["calls"]]
    return TraceWorkflow(**{**data, "calls": tuple(calls)})


def merge(traces: Sequence[Trace]) -> Trace:
    """Return all workflows of several traces in order of arrival."""
    workflows = [one for trace in traces for one in trace.workflows]
    return Trace(tuple(sorted(workflows, key=lambda one: (one.arrived, one.workflow))))


def segment_base(name: str) -> int:
    """Return where a simulated prompt's part of this name begins among numbers no other part uses."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) << 28
