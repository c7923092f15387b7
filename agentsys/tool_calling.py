"""Calling tools: decided by the gateway, recorded before they begin, the result shown to the actor or hidden."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from agentsys.approval_use import INVALID, use
from agentsys.approvals import Approval
from agentsys.asking import approval_of_call, decided
from agentsys.blackboard.effects import Effect, EffectIntent, EffectState
from agentsys.blackboard.entries import EntryVersionRef, Json
from agentsys.blackboard.labels import PUBLIC, Label
from agentsys.board_access import BoardAccess
from agentsys.gateway import Allow, AllowCall, AskCall, Deny, PolicyDenied
from agentsys.handles import Handle, Hidden, patterns, shown, together
from agentsys.journal import COMPENSATE, Step
from agentsys.labelled import Given, Labelled, sources_of, unwrap, unwrap_arguments
from agentsys.memoisation import Asked, Memoise, Turn, version_of
from agentsys.policy.policy import Policy
from agentsys.questions import about_call
from agentsys.quotas import QuotaExceeded, charges_of_call
from agentsys.ruling import field_labels, own_source
from agentsys.sagas import MadeCall, Saga, compensation, note_compensated, undoing_arguments
from agentsys.settling import as_told
from agentsys.tool_calls import EffectInDoubt, ToolFailed, UnknownTool, carry_out, label_of, result_of
from agentsys.tools import Tool, to_json

_saga: ContextVar[tuple[object, Saga] | None] = ContextVar("agentsys_saga", default=None)
"""Whose code is in a saga, and in which; several may be under way at once."""


class ToolCalling(BoardAccess):
    """What a :class:`~agentsys.context.Context` knows of tools."""

    @property
    def policy(self) -> Policy:
        """The owner's word, under which everything is decided."""
        return self._scope.gateway.policy

    def tool(self, name: str) -> Tool | None:
        """Return a tool as the policy has it, if it is known now."""
        return self._scope.gateway.tool(name)

    async def call(self, tool: str, /, **arguments: Any) -> Labelled[Any]:
        """Call a tool through the gateway; its result is shown, and raises the control label.

        Raises :class:`PolicyDenied`, :class:`~agentsys.tool_calls.ToolFailed`,
        :class:`~agentsys.tool_calls.EffectInDoubt`, and :class:`~agentsys.handles.NoValue` for a handle among the
        arguments that stands for nothing.
        """
        hidden, label, failed = await self._call(tool, arguments, hide=False)
        self.deliver(label)
        self.learn(sources_of(arguments))
        if failed is not None:
            raise failed
        return Labelled(hidden.value, label)

    async def call_hidden(self, tool: str, /, **arguments: Any) -> Handle:
        """Call a tool through the gateway, and return a handle of its result: that the call failed is hidden too.

        The arguments may be handles, which do not raise the control label; that they stand for nothing, or for what is
        denied for what it is, is a failure of the call. Raises :class:`PolicyDenied` for other denials,
        :class:`~agentsys.tool_calls.EffectInDoubt`, and :class:`~agentsys.handles.NoValue` where an endorser refused.
        """
        hidden, _, _ = await self._call(tool, arguments, hide=True)
        return self._handle(replace(hidden, sources=tuple(sources_of(arguments))))

    async def reveal(self, handle: Handle) -> Labelled[Any]:
        """Show what a handle stands for, which raises the control label. Raises :class:`~agentsys.handles.NoValue`."""
        self._check()
        self.deliver(handle.label)
        self.learn(sources_of(handle))
        with self._delivering_no_value():
            value, _ = unwrap(handle)
        return Labelled(value, handle.label)

    def together(self, *handles: Handle) -> Handle:
        """Return one handle for a list of what several stand for."""
        return together(self._handle_name(), handles)

    def visible(self, handle: Handle) -> Any:
        """Return what may be seen of a handle without raising the control label: parts that may not stay handles.

        Raises :class:`~agentsys.handles.NoValue`, where that may be known.
        """
        self._check()
        seen = shown(handle, self._label)
        if seen is not handle:
            self.learn(sources_of(handle))
        return seen

    @asynccontextmanager
    async def saga(self) -> AsyncIterator[None]:
        """Take back the compensable calls made inside, newest first, where the block ends with an error.

        Being cancelled, as when time is up, is none. A call in doubt is taken back too, and one that is still under way
        once it has ended. The error goes on; what could not be taken back is noted on it, and on the board.
        Source: Garcia-Molina and Salem, "Sagas", SIGMOD 1987.
        """
        around, saga = self._saga(), Saga()
        inside = _saga.set((self, saga))
        try:
            with around.under_way():
                try:
                    yield
                except Exception as error:
                    self._check()
                    await self._take_all_back(saga, error)
                    raise
                around.add(*await saga.calls())
        finally:
            _saga.reset(inside)

    async def _call(
        self, tool: str, arguments: dict[str, Any], *, hide: bool
    ) -> tuple[Hidden, Label, ToolFailed | None]:
        given = self._given(arguments, hide=hide)
        document: Any = to_json(given.arguments)
        known = self._scope.gateway.tool(tool)
        asked = self._asked("call", tool, known.memo if known else None, document)
        step, recorded = self._take("call", [tool, document])
        question = None
        plain = given.nothing is None and not self._scope.gateway.asks(tool)
        if recorded is None and known is not None and plain:
            label, version = given.raised(self._label), version_of(known.function)
            question = self._scope.memo.question(asked, version, document, label)
        saga = self._saga() if known is not None and known.undo is not None else Saga()
        with self._stopping(), saga.under_way():
            async with self._scope.memo.turn(question) as turn:
                return await self._make_call(tool, step, recorded, given, turn, hide=hide)

    def _given(self, arguments: dict[str, Any], *, hide: bool) -> Given:
        """Return a call's arguments. Raises :class:`NoValue` where the caller is shown that one stands for nothing.

        That an endorser refused a value is among the bits that are charged for it, and shown.
        """
        given = unwrap_arguments(arguments)
        if given.nothing is not None and not (hide and self._strange(given.nothing.label)):
            with self._delivering_no_value():
                raise given.nothing
        return given

    def _strange(self, label: Label) -> bool:
        """Whether showing something with ``label`` would let others shape what the caller does, unendorsed."""
        return not label.influencers <= self._label.influencers | self.policy.trusted

    async def _make_call(
        self,
        tool: str,
        step: Step,
        recorded: Step | None,
        given: Given,
        turn: Turn,
        *,
        hide: bool,
    ) -> tuple[Hidden, Label, ToolFailed | None]:
        fresh = recorded is None
        if recorded is None:
            recorded = await self._decide_call(step, tool, given, turn)
        outcome: Any = recorded.value
        told = given.raised(recorded.label)
        if not hide:
            self.deliver(told)
        if "denied" in outcome:
            rule, reason = outcome["denied"], outcome["reason"]
            denial = f"The call of {tool} was denied by rule {rule}: {reason}."
            if outcome.get("telling") and not told.flows_to(self._label):
                label = told.join(*self._sources(tool))
                return Hidden(None, label, failure=denial), label, None
            raise PolicyDenied(denial, rule=rule)
        if "memo" in outcome:
            return Hidden(outcome["value"], told), told, None
        declared = self._scope.gateway.tool(tool)
        if declared is None:
            raise UnknownTool(f"Run {self.run} needs the tool {tool!r}, which is not registered.")
        if "asked" in outcome:
            await self._answered(recorded, fresh=fresh, hide=hide)
        effect = await asyncio.to_thread(self._scope.board.effect, outcome["effect"])
        assert effect is not None, "the intent is one commit with the step, or with the approval"
        effect = as_told(effect, self.run)
        self._check()
        if effect.state is EffectState.INTENDED and recorded.key != step.key:
            await self._require_still(tool, given, effect.intent.label)
        if declared.undo is not None:
            self._saga().add(MadeCall(step.key, declared, effect.id))
        # Who shapes the result may depend on what was asked.
        declared = self._scope.gateway.tool(tool, effect.intent.arguments) or declared
        with self._delivering_doubt(declared, given.raised(effect.intent.label)):
            effect = await self._carried_out(declared, effect, turn)
        label = given.raised(label_of(effect))
        try:
            value = result_of(declared, effect).value
        except ToolFailed as failure:
            return Hidden(None, label, failure=failure.message), label, failure
        except EffectInDoubt:
            self.deliver(label)
            raise
        return self._parts(tool, effect, value, label), label, None

    async def _require_still(self, tool: str, given: Given, before: Label) -> None:
        """Decide anew about a call that an earlier attempt was allowed, under ``before``, and did not begin.

        Raises :class:`PolicyDenied`.
        """
        about: dict[str, Any] = {"control": self._label, "labels": given.labels, "fault": given.fault}
        decision = await self._scope.gateway.judge(tool, given.arguments, **about)
        if isinstance(decision, Deny):
            redacted: Any = self._scope.secrets.json(to_json(given.arguments))
            self.decisions.require(f"call {tool}", decision, about_call(tool, redacted, **about))
        known = before.influencers | self.policy.trusted | self.policy.approvers
        if isinstance(decision, AskCall) and not given.raised(self._label).influencers <= known:
            # No policy says so: the word is about what the person was told.
            self.decisions.require(f"call {tool}", Deny(INVALID, "others than the person was told of shape it by now"))

    async def _carried_out(self, tool: Tool, effect: Effect, turn: Turn | None = None) -> Effect:
        scope = self._scope
        lease, replaying = scope.journal.lease, scope.replaying
        return await carry_out(
            scope.board, tool, effect, replaying=replaying, turn=turn, secrets=scope.secrets, lease=lease
        )

    @contextmanager
    def _delivering_doubt(self, tool: Tool, label: Label) -> Iterator[None]:
        """Raise the control label where nobody knows what became of a call: why may be said in its tool's words."""
        try:
            yield
        except EffectInDoubt:
            self.deliver(label, *([tool.source] if tool.source is not None else []))
            raise

    def _sources(self, tool: str) -> list[Label]:
        """Return the label of what a tool brings in, where it brings in anything."""
        known = self._scope.gateway.tool(tool)
        return [] if known is None or known.source is None else [known.source]

    def _parts(self, tool: str, effect: Effect, value: Json, label: Label) -> Hidden:
        """Return a result with the labels of its parts, where its label is no more than theirs."""
        gateway = self._scope.gateway
        declared, rule, owner = gateway.tools.get(tool), gateway.policy.rule(tool), gateway.policy.owner
        if declared is None or not rule.fields:
            return Hidden(value, label)
        given, own = effect.intent.label, own_source(declared, rule, owner, effect.intent.arguments)
        fields = field_labels(declared, rule, owner)
        if not label_of(effect).flows_to(given.join(own, *fields.values())):
            # The function itself said more of who shaped its result, and not of which part.
            return Hidden(value, label)
        parts = {pattern: given.join(part) for pattern, part in patterns(fields).items()}
        return Hidden(value, given.join(own), parts)

    async def _decide_call(self, step: Step, tool: str, given: Given, turn: Turn) -> Step:
        redacted: Any = self._scope.secrets.json(to_json(given.arguments))
        labels, fault = given.labels, given.fault
        question = about_call(tool, redacted, self._label, labels, fault)
        gateway, control = self._scope.gateway, self._label
        decision = await gateway.judge(tool, given.arguments, control=control, labels=labels, fault=fault)
        step = replace(step, label=given.raised(self._label))
        before = self.decisions.pending
        # What is denied for what only a handle's content shows is counted like what is allowed, which looks the same.
        concealed = isinstance(decision, Deny) and decision.telling and not step.label.flows_to(self._label)
        if concealed or not isinstance(decision, Deny):
            self.decisions.note(f"call {tool}", decision, step.label, question)
            try:
                return await self._begin_call(step, tool, decision, given, turn)
            except QuotaExceeded as exceeded:
                self.decisions.pending = before + self.decisions.pending
                decision = Deny("quota", exceeded.message)
        self.decisions.note(f"call {tool}", decision, step.label, question)
        return await self._record(replace(step, value=_denied(decision)), derived_from=given.sources)

    async def _begin_call(
        self, step: Step, tool: str, decision: AllowCall | AskCall | Deny, given: Given, turn: Turn
    ) -> Step:
        """Record a call that counts against the quotas. Raises :class:`QuotaExceeded`."""
        charges, sources = charges_of_call(self._scope.gateway.policy, self.run, tool), given.sources
        if isinstance(decision, Deny):
            return await self._record_spending(replace(step, value=_denied(decision)), charges, derived_from=sources)
        if isinstance(decision, AskCall):
            identity, control = self._identity(step), self._label
            approval = approval_of_call(self._scope, self.actor, step, identity, decision, control, given.labels)
            value: Json = {"effect": approval.id, "asked": approval.id, "binding": approval.binding}
            return await self._record_spending(replace(step, value=value), charges, approval.write, sources)
        if turn.found is not None:
            value = {"tool": tool, "arguments": decision.arguments, "value": turn.found.answer, "memo": turn.key}
            step = replace(step, value=value, label=step.label.join(turn.found.label))
            return await self._record_spending(step, charges, derived_from=[turn.found.ref, *sources])
        effect, effect_class = self._identity(step), decision.tool.effect_class
        intent = EffectIntent(effect, self.run, step.key, tool, effect_class, decision.arguments, step.label)
        step = replace(step, value={"effect": effect})
        return await self._record_spending(step, charges, lambda transaction: transaction.plan_effect(intent), sources)

    def _saga(self) -> Saga:
        """Return the saga that the actor's code is in, or one of nobody; one's caller may be in one of its own."""
        actor, saga = _saga.get() or (None, Saga())
        return saga if actor is self else Saga()

    async def _take_all_back(self, saga: Saga, error: Exception) -> None:
        """Undo what was done in a saga that ends with ``error``, on which is noted what cannot be undone."""
        for _, tool, effect in reversed(await saga.calls()):
            try:
                with self._stopping():
                    await self._take_back(tool, effect)
            except (ToolFailed, EffectInDoubt) as failure:
                error.add_note(failure.message)

    async def _take_back(self, tool: Tool, effect: str) -> None:
        """Undo a call, as an effect of its own, unless it failed. Raises what a call of the undoing tool raises."""
        made, undo = await asyncio.to_thread(self._scope.board.effect, effect), tool.undo
        assert made is not None and undo is not None, "only compensable calls that were planned are kept"
        made = as_told(made, self.run)
        if made.state is EffectState.FAILED:
            return
        self.deliver(label_of(made))
        arguments = undoing_arguments(made, undo)
        step, recorded = self._take(COMPENSATE, effect)
        if recorded is None:
            # Allowed with the call itself: to leave it standing would be the harm.
            self.decisions.note(f"call {undo.name}", Allow("compensation"))
            intent = compensation(self._identity(step), step.key, made, undo, arguments, self._label)
            transaction = self._scope.journal.begin(f"agent:{self.agent}")
            transaction.plan_effect(intent)
            recorded = await self._record(replace(step, value={"effect": intent.id}, label=intent.label), transaction)
        outcome: Any = recorded.value
        undoing = await asyncio.to_thread(self._scope.board.effect, outcome["effect"])
        assert undoing is not None, "the step and its intent are one commit"
        with self._delivering_doubt(undo, undoing.intent.label):
            undone = await self._carried_out(undo, undoing)
        self.deliver(label_of(undone))
        result_of(undo, undone)
        await note_compensated(self._scope.board, effect)

    async def _post_approval(self, step: Step, approval: Approval, sources: Sequence[EntryVersionRef]) -> Step:
        transaction = self._scope.journal.begin(f"agent:{self.agent}")
        approval.write(transaction)
        value: Json = {"asked": approval.id, "binding": approval.binding}
        return await self._record(replace(step, value=value, label=approval.label), transaction, sources)

    async def _answered(self, asked: Step, *, fresh: bool, hide: bool = False) -> Approval:
        """Return once a person's word allows what a step asked. Raises what :func:`use` raises."""
        outcome: Any = asked.value
        with self._stopping():
            answered = await decided(self._scope, self.actor, outcome["asked"], fresh=fresh)
            # The caller of a hidden call learns what the person decided, and nothing of what the person saw.
            by = frozenset() if answered.decided_by is None else frozenset({answered.decided_by})
            self.deliver(Label(by, PUBLIC, 1.0) if hide else answered.label)
            await use(self._scope, asked, answered, self._label)
        return answered

    def _asked(self, kind: str, name: str, memo: Memoise | None, arguments: dict[str, Any]) -> Asked:
        """Read what the answer of a memoised call follows from beside its parameters."""
        read = [self.read(topic, key) for topic, key in memo.addresses(arguments)] if memo is not None else []
        absent = any(entry is None or entry.version == 0 for entry in read)
        return Asked(kind, name, memo, None if absent else tuple(entry.ref for entry in read if entry is not None))


def _denied(decision: Deny) -> Json:
    return {"denied": decision.rule, "reason": decision.reason, "telling": decision.telling}
