"""The runtime: a board, a model, agents, tools and workflows under one policy."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from agentsys import cancellation
from agentsys.agenda import Agenda
from agentsys.agents import Agent, AgentRegistry
from agentsys.approvals import Approval, ApprovalStatus, list_approvals
from agentsys.audit import AuditReport, audit, keep_policy
from agentsys.beginning import begin, free_name
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import Effect
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.resolution import Policies
from agentsys.blackboard.transactions import Transaction
from agentsys.control import ControlLoop
from agentsys.deciding import Verdict, Word, decide
from agentsys.errors import RunError
from agentsys.events import Listener
from agentsys.execution import execute, record_cancelled, repeat
from agentsys.forks import copy_steps, forked
from agentsys.gateway import Gateway
from agentsys.held_runs import HeldRuns
from agentsys.journal import Journal, Mode
from agentsys.labelled import unwrap
from agentsys.leases import claim
from agentsys.memoisation import LONGEST_SECONDS, Memoisation
from agentsys.models import as_model
from agentsys.policy.documents import load_policy
from agentsys.policy.policy import Policy
from agentsys.runs import ReplayReport, RunRecord, RunResult, list_runs
from agentsys.scope import RunScope
from agentsys.secrets import Secret, Secrets, declared_in, redact_logs
from agentsys.serving.weights.progress import ProgressListener, ignore_progress
from agentsys.settling import SettledAs, settle
from agentsys.tools import Tool, ToolRegistry, to_json
from agentsys.workflow import Workflow, WorkflowFunction

if TYPE_CHECKING:
    from agentsys.settings import Settings

MAX_ACTING = 16
"""Agents that act at once in one runtime, unless it says otherwise."""

MAX_VOLUNTEERS = 8
"""Agents that may answer one request unless the asker says otherwise."""


class UnknownWorkflow(RunError):
    """A run belongs to a workflow that is not registered."""

    code = "AGS-0605"
    remedy = "Pass the workflow to Runtime(workflows=[...]), or to resume() and replay()."


class Runtime:
    """Runs workflows. One runtime owns its board for writing; it can execute many runs at once in one event loop."""

    def __init__(
        self,
        board: Board,
        model: Any,
        *,
        agents: Iterable[Agent] = (),
        tools: Iterable[Tool] = (),
        workflows: Iterable[Workflow | WorkflowFunction] = (),
        policy: Policy | None = None,
        conflicts: Policies | None = None,
        max_volunteers: int = MAX_VOLUNTEERS,
        max_acting: int = MAX_ACTING,
        memo_seconds: float = LONGEST_SECONDS,
        approval_seconds: float | None = None,
        secrets: Iterable[Secret] = (),
    ) -> None:
        """``conflicts`` says for types of entries what becomes of an actor whose commit conflicts on one: see
        :mod:`agentsys.blackboard.resolution`. Answers of memoised calls hold for ``memo_seconds`` at most; 0 makes
        every call anew (see :mod:`agentsys.memoisation`). What a person is asked, and does not decide within
        ``approval_seconds``, counts as rejected; without them it waits. ``secrets`` are what tools may be given and
        nobody else sees (see :mod:`agentsys.secrets`).
        """
        self.board = board
        self.model = as_model(model)
        self.policy = policy or Policy()
        self.agents = AgentRegistry(agents)
        self.workflows = {workflow.name: workflow for workflow in map(Workflow.of, workflows)}
        self.tools = ToolRegistry(tools)
        self.secrets = Secrets.of(*secrets)
        if self.secrets.declared:
            redact_logs(self.secrets)
        self._gateway = Gateway(self.policy, self.tools, self.secrets)
        self._agenda = Agenda(max_acting)
        self._memo = Memoisation(board, self.policy, memo_seconds)
        self._conflicts = conflicts or {}
        self._max_volunteers = max_volunteers
        self._approval_seconds = approval_seconds
        self._held = HeldRuns(board)

    @staticmethod
    def local(path: Path | str | None = None, **arguments: Any) -> Runtime:
        """Open a board (by default the settings' one) with the settings' model, which is loaded at its first call.

        ``arguments`` are those of the constructor.
        """
        from agentsys.settings import load_settings

        return Runtime.from_settings(load_settings({"board.path": path}).settings, **arguments)

    @staticmethod
    def from_settings(
        settings: Settings, *, read_only: bool = False, progress: ProgressListener = ignore_progress, **arguments: Any
    ) -> Runtime:
        """Return a runtime on the settings' board with the settings' model; ``arguments`` are the constructor's.

        ``progress`` is told how far a model is that is pulled at its first call.
        On a board opened ``read_only``, beside another process that writes it, runs can only be listed and replayed.
        Without a policy of its own, naming a model server in the settings makes it a processor of the owner's data.
        """
        from agentsys.embedded import client_of

        client = client_of(settings, progress=progress)
        if arguments.get("policy") is None:
            policy = Policy() if settings.policy is None else load_policy(settings.policy)
            arguments["policy"] = policy.with_processors(client.audience.members or ())
        arguments.setdefault("approval_seconds", settings.approvals.expire_seconds)
        arguments.setdefault("secrets", declared_in(settings))
        arguments.setdefault("memo_seconds", settings.memo.seconds if settings.memo.enabled else 0.0)
        where, durability = settings.board.location, settings.board.durability
        board = Board.open_read_only(where) if read_only else Board.open(where, durability=durability)
        try:
            return Runtime(board, client, **arguments)
        except BaseException:
            # Nobody else would, and until then this process could not open it again.
            board.close()
            raise

    async def run(
        self,
        workflow: Workflow | WorkflowFunction | str,
        input: Any = None,
        *,
        label: Label | None = None,
        deadline: float | None = None,
        run_id: str | None = None,
        origin: Json = None,
        listener: Listener | None = None,
    ) -> RunResult:
        """Execute a workflow. A failure of the workflow is in the result, with its code.

        ``label`` is of the input; without one, it counts as written by the policy's owner, who makes this call.
        ``deadline`` is in seconds from now, before the workflow's own. ``origin`` is kept with the record.
        """
        chosen = self._workflow(workflow)
        record = await asyncio.to_thread(self._record, chosen, input, label, deadline, run_id, origin)
        run = record.run
        async with self._held.executing(run):
            await self._begin(record)
            return await self._execute(run, chosen, listener)

    async def enqueue(
        self,
        workflow: Workflow | WorkflowFunction | str,
        input: Any = None,
        *,
        label: Label | None = None,
        deadline: float | None = None,
        run_id: str | None = None,
        origin: Json = None,
    ) -> str:
        """Put a run on record for whichever worker takes it (see :mod:`agentsys.workers`), and return its identifier.

        The arguments are those of :meth:`run`.
        """
        chosen = self._workflow(workflow)
        record = await asyncio.to_thread(self._record, chosen, input, label, deadline, run_id, origin)
        await begin(self.board, record, self.policy, for_anybody=True)
        return record.run

    async def resume(
        self,
        run: str,
        workflow: Workflow | WorkflowFunction | None = None,
        *,
        listener: Listener | None = None,
    ) -> RunResult:
        """Go on with an interrupted run where its record ends; of a finished one, return the result.

        Raises :class:`UnknownRun`, :class:`UnknownWorkflow`, :class:`ReplayDivergence`, and
        :class:`~agentsys.leases.RunBusy` while a live process executes it.
        """
        record = await self._load(run)
        if record.status != "running":
            return RunResult(record)
        chosen = self._workflow(workflow or record.workflow)
        async with self._held.executing(run):
            self._held.keep(run, await claim(self.board, run, partial(keep_policy, self.board, self.policy)))
            return await self._execute(run, chosen, listener, resumed=True)

    async def fork(
        self,
        run: str,
        workflow: Workflow | WorkflowFunction | None = None,
        *,
        at: int | None = None,
        run_id: str | None = None,
        listener: Listener | None = None,
    ) -> RunResult:
        """Start a new run that takes over what ``run`` had recorded at commit ``at``, by default nothing but its input.

        See :mod:`agentsys.forks`. Raises :class:`UnknownRun`, :class:`UnknownWorkflow`,
        :class:`~agentsys.forks.ForkOutside`.
        """
        source = await self._load(run)
        chosen = self._workflow(workflow or source.workflow)
        record = await asyncio.to_thread(self._forked, source, run_id, at)
        async with self._held.executing(record.run):
            await self._begin(record, None if at is None else partial(copy_steps, self.board, run, record.run, at))
            return await self._execute(record.run, chosen, listener)

    async def replay(self, run: str, workflow: Workflow | WorkflowFunction | None = None) -> ReplayReport:
        """Execute a run again from its record alone, without model, tool or write, and compare."""
        record = await self._load(run)
        chosen = self._workflow(workflow or record.workflow)
        return await repeat(await asyncio.to_thread(self._scope, record, None, Mode.REPLAY), record, chosen)

    async def audit(self, run: str) -> AuditReport:
        """Make every decision on a run's record again, under the policy that it names (see :mod:`agentsys.audit`).

        Raises :class:`UnknownRun`.
        """
        await self._load(run)
        return await audit(self.board, self._gateway, run)

    async def cancel(self, run: str, *, by: str | None = None) -> None:
        """End a run for good, also one that a dead process left behind; of a finished run nothing changes.

        ``by`` is who wants that, by default the policy's owner.
        A tool call under way is recorded as in doubt. Code that catches the cancellation and goes on commits nothing
        more. Raises :class:`UnknownRun`.
        """
        await self._load(run)
        interrupted = await self._interrupt(run)
        await record_cancelled(self.board, run, by or self.policy.owner)
        # Who took it meanwhile would learn that at its next commit, after whatever call it waits for.
        if self._held.task(run) is not interrupted:
            await self._interrupt(run)

    def lease(self, run: str) -> Entry | None:
        """Return the lease under which this runtime executes a run, if it does."""
        return self._held.lease(run)

    def runs(self) -> list[RunRecord]:
        """Return all runs of the board, the oldest first."""
        return list_runs(self.board)

    def approvals(self, status: ApprovalStatus | None = None, run: str | None = None) -> list[Approval]:
        """Return what a person was asked, the oldest first."""
        return list_approvals(self.board, status, run)

    async def decide(self, approval: str, verdict: Verdict, *, by: str | None = None, **said: Any) -> Approval:
        """Record a person's word, by default the policy's owner's.

        ``said`` is what else a :class:`~agentsys.deciding.Word` says: ``note``, ``answer``, ``edited``, ``to``,
        ``binding``. Raises what :func:`agentsys.deciding.decide` raises.
        """
        said = {name: self.secrets.json(value) for name, value in said.items()}
        return await decide(self.board, approval, Word(verdict, by or self.policy.owner, **said))

    async def settle(
        self, effect: str, outcome: SettledAs, result: Json = None, *, by: str | None = None, note: str = ""
    ) -> Effect:
        """Record a person's word, by default the policy's owner's, on what became of a tool call in doubt.

        See :func:`agentsys.settling.settle`.
        """
        told, why = self.secrets.json(result), self.secrets.text(note)
        return await settle(self.board, effect, outcome, told, by=by or self.policy.owner, note=why)

    async def close(self) -> None:
        """Close what the tools hold open, the model and the board, also where one of them fails to."""
        async with AsyncExitStack() as closing:
            closing.callback(self.board.close)
            model: Any = self.model
            if hasattr(model, "close"):
                closing.push_async_callback(model.close)
            await self.tools.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _execute(
        self, run: str, workflow: Workflow, listener: Listener | None, *, resumed: bool = False
    ) -> RunResult:
        record = await self._load(run)
        if record.status != "running":
            # It ended between the caller's look and the lease.
            return RunResult(record)
        scope = await asyncio.to_thread(self._scope, record, listener, Mode.LIVE)
        return await execute(scope, record, workflow, resumed=resumed)

    async def _interrupt(self, run: str) -> asyncio.Task[Any] | None:
        """Cancel what executes a run here, and wait until it has ended; return it."""
        executing = self._held.task(run)
        if executing is not None and executing is not asyncio.current_task():
            executing.cancel()
            await asyncio.wait([executing], timeout=cancellation.PATIENCE_SECONDS)
        return executing

    async def _load(self, run: str) -> RunRecord:
        return await asyncio.to_thread(RunRecord.load, self.board, run)

    def _forked(self, source: RunRecord, run_id: str | None, at: int | None) -> RunRecord:
        return forked(source, free_name(self.board, run_id), at, time.time(), self.board.head)

    def _record(
        self,
        workflow: Workflow,
        input: Any,
        label: Label | None,
        deadline: float | None,
        run_id: str | None,
        origin: Json,
    ) -> RunRecord:
        """Return the record of a run that begins now."""
        value, labels = unwrap(input)
        label = (label or Label.trusted(self.policy.owner)).join(*labels)
        run = free_name(self.board, run_id)
        started, seconds = time.time(), deadline if deadline is not None else workflow.deadline
        ends = None if seconds is None else started + seconds
        given = self.secrets.json(to_json(value))
        return RunRecord(run, workflow.name, given, label, started, ends, origin=origin, after=self.board.head)

    async def _begin(self, record: RunRecord, add: Callable[[Transaction], None] | None = None) -> None:
        """Begin a run that this process executes. Raises :class:`~agentsys.beginning.RunExists`."""
        self._held.keep(record.run, await begin(self.board, record, self.policy, add))

    def _scope(self, record: RunRecord, listener: Listener | None, mode: Mode) -> RunScope:
        scope = RunScope(
            board=self.board,
            journal=Journal(self.board, record.run, mode, self._held.lease(record.run)),
            model=self.model,
            gateway=self._gateway,
            agents=self.agents,
            agenda=self._agenda,
            started=record.started,
            deadline=record.deadline,
            max_volunteers=self._max_volunteers,
            memo=self._memo,
            approval_seconds=self._approval_seconds,
            audience=record.audience,
            conflicts=self._conflicts,
            listener=listener,
            secrets=self.secrets,
            workflow=record.workflow,
            tenant=record.principal or self.policy.owner,
        )
        scope.run_round = ControlLoop(scope).run_round
        return scope

    def _workflow(self, workflow: Workflow | WorkflowFunction | str) -> Workflow:
        if not isinstance(workflow, str):
            return Workflow.of(workflow)
        if workflow not in self.workflows:
            known = ", ".join(sorted(self.workflows)) or "none"
            raise UnknownWorkflow(f"No workflow is named {workflow!r}; registered: {known}.")
        return self.workflows[workflow]
