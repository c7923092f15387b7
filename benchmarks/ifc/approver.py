"""The ideal approver: a person who approves exactly what the user wanted done, once each, and refuses all else."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from agentsys.benchmarks.ifc.audit import same_arguments
from agentsys.benchmarks.ifc.ground_truths import Call, is_write
from agentsys.benchmarks.ifc.script import Script
from agentsys.events import ApprovalRequested, RunEvent
from agentsys.runtime import Runtime


@dataclass(slots=True)
class Approver:
    """Hears what a run asks, and answers by the user's plan. ``approved`` and ``refused`` are the tools asked about."""

    script: Script
    approved: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _left: list[Call] = field(default_factory=list)
    _runtime: Runtime | None = None
    _answering: list[asyncio.Task[Any]] = field(default_factory=list)

    def attend(self, runtime: Runtime) -> None:
        """Answer for the owner of ``runtime``."""
        self._runtime = runtime
        self._left = [call for call in self.script.steps if is_write(call.tool)]

    def hear(self, event: RunEvent) -> None:
        """Answer a question about a call."""
        if isinstance(event, ApprovalRequested) and self._runtime is not None:
            arguments = event.arguments if isinstance(event.arguments, dict) else {}
            wanted = next((call for call in self._left if same_arguments(call, event.subject, arguments)), None)
            if wanted is not None:
                self._left.remove(wanted)
            (self.refused if wanted is None else self.approved).append(event.subject)
            answer = self._runtime.decide(event.approval, "reject" if wanted is None else "approve")
            self._answering.append(asyncio.ensure_future(answer))

    async def settled(self) -> None:
        """Wait until all answers are on record."""
        await asyncio.gather(*self._answering)
