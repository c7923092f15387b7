"""AgentDojo's pipeline element that is a run of this project's runtime: gateway, labels, board and all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.functions_runtime import FunctionCall
from agentdojo.types import text_content_block_from_string

from agentsys.benchmarks.ifc.approver import Approver
from agentsys.benchmarks.ifc.arms import Arm, Attacker, endorser_for
from agentsys.benchmarks.ifc.audit import Findings, audit
from agentsys.benchmarks.ifc.dojo import Pair
from agentsys.benchmarks.ifc.planner import Planner
from agentsys.benchmarks.ifc.reading import Reader
from agentsys.benchmarks.ifc.script import Script, script_of
from agentsys.benchmarks.ifc.tools import Trace, wrap
from agentsys.benchmarks.ifc.transcript import is_planning, told
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import NOBODY
from agentsys.context import Context
from agentsys.models import OnChunk
from agentsys.planning.answers import Answer
from agentsys.planning.planner import plan
from agentsys.runtime import Runtime
from agentsys.serving.requests import FinishReason, GenerateRequest, Generation, Timings, Usage
from agentsys.testing import prompt_text

MOST_TURNS: Final = 96


class GullibleModel:
    """The one model behind a run: plans in the open, and reads in quarantine."""

    audience = NOBODY

    def __init__(self, planner: Planner, reader: Reader) -> None:
        self._turns = planner.turns()
        next(self._turns)
        self._reader = reader

    async def generate(
        self, request: GenerateRequest, *, model: str | None = None, on_chunk: OnChunk | None = None
    ) -> Generation:
        """Answer a planning turn or a quarantined question, whichever the prompt is."""
        if is_planning(request):
            answer = self._turns.send(told(request))
        else:
            assert request.constraint is not None, "a quarantined call has a grammar"
            answer = self._reader.answer(prompt_text(request), json.loads(request.constraint.source))
        return Generation(answer, (), FinishReason.STOP, Usage(), Timings(), "gullible")


@dataclass(slots=True)
class Played:
    """What a run came to: the answer's own words, what was attached to it, and what was done."""

    script: Script
    planner: Planner
    reader: Reader
    findings: Findings
    approver: Approver
    body: str
    attached: str
    failure: str | None
    environment: Any
    calls: list[FunctionCall] = field(default_factory=list)


class AgentsysElement(BasePipelineElement):  # type: ignore[misc]
    """Runs the user's prompt on the runtime, over whatever environment AgentDojo hands in."""

    name = "agentsys"

    def __init__(self, board: Board, runner: asyncio.Runner, pair: Pair, arm: Arm, attacker: Attacker) -> None:
        self._board, self._runner = board, runner
        self._pair, self._arm, self._attacker = pair, arm, attacker
        self.played: Played | None = None

    def query(
        self, query: str, runtime: Any, env: Any, messages: Sequence[Any] = (), extra_args: Any = None
    ) -> tuple[Any, ...]:
        """Return AgentDojo's tuple; the answer that its checkers see is the body, without what is attached."""
        self.played = played = self._runner.run(self._play(query, runtime, env))
        calls = [_message("", [call]) for call in played.calls]
        return query, runtime, env, [*messages, *calls, _message(played.body, None)], extra_args or {}

    async def _play(self, prompt: str, functions: Any, environment: Any) -> Played:
        script = script_of(self._pair, environment)
        reader = Reader(script, environment, self._attacker)
        endorser = partial(endorser_for, self._pair.suite)
        planner = Planner(script, environment, reader.ask, endorser, persistent=self._arm.approver)
        trace, approver = Trace(planner.by), Approver(script)

        async def work(context: Context, task: str) -> Any:
            options = {"hide": self._arm.hiding, "may_reveal": True, "most_turns": MOST_TURNS}
            return (await plan(context, task, list(functions.functions), **options)).labelled()

        runtime = Runtime(
            self._board,
            GullibleModel(planner, reader),
            tools=wrap(functions, environment, trace),
            policy=self._arm.policy(self._pair.suite),
        )
        approver.attend(runtime)
        result = await runtime.run(work, prompt, listener=approver.hear)
        await approver.settled()
        answer = Answer(()) if result.failure is not None else Answer.from_json(result.value)
        return Played(
            script=script,
            planner=planner,
            reader=reader,
            findings=audit(script, trace.executed),
            approver=approver,
            body=answer.body,
            attached="\n".join(span.text for span in answer.attached),
            failure=None if result.failure is None else result.failure.message,
            environment=environment,
            calls=[FunctionCall(function=call.tool, args=call.arguments) for call in trace.executed],
        )


def _message(text: str, calls: list[FunctionCall] | None) -> dict[str, Any]:
    return {"role": "assistant", "content": [text_content_block_from_string(text)], "tool_calls": calls}
