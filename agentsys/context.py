"""The context of an agent: all it can touch. Values are labelled, steps recorded, writes transactional."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, replace
from typing import Any, TypeVar

from pydantic import BaseModel

from agentsys import topics
from agentsys.actor import Actor
from agentsys.agents import Request
from agentsys.approvals import Approval
from agentsys.asking import AnswerRefused, approval_of_call, approval_of_question, decided
from agentsys.blackboard.effects import EffectIntent, EffectState
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.transactions import Transaction
from agentsys.board_access import BoardAccess
from agentsys.capacity import capacity_of
from agentsys.events import RequestPosted
from agentsys.gateway import Allow, AskCall, Deny, PolicyDenied
from agentsys.journal import ReplayDivergence, Step
from agentsys.labelled import Labelled, unwrap, unwrap_arguments
from agentsys.memoisation import Asked, Memoise, Turn, check_deterministic, version_of
from agentsys.model_calls import answer_of_model
from agentsys.models import ModelFailed, identity_of
from agentsys.rounds import Failure, RoundOutcome
from agentsys.sagas import compensation, note_compensated
from agentsys.schemas import extraction_prompt, parse_answer, schema_constraint
from agentsys.scope import Round, RunScope
from agentsys.serving.requests import Constraint, GenerateRequest, Message, SamplingParams
from agentsys.tool_calls import EffectInDoubt, ToolFailed, UnknownTool, carry_out, label_of, result_of
from agentsys.tools import Tool, to_json

M = TypeVar("M", bound=BaseModel)


class Context(BoardAccess):
    """What one attempt of one actor works through.

    Steps are numbered in the order in which they are begun, so an actor that begins steps concurrently must begin them
    in a fixed order. ``ask`` ends the current transaction: what was put before it is committed with the request, and
    what is read after it includes what the round changed.
    """

    def __init__(self, scope: RunScope, actor: Actor) -> None:
        super().__init__(scope, actor)
        self._compensable: list[tuple[Tool, str]] = []
        self.kept: str | None = None
        """The last request with which this attempt, or one that it repeats, committed writes."""
        self.lost: Transaction | None = None
        """The transaction that this attempt tried to commit last."""

    async def ask(
        self,
        kind: str,
        value: Any = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a bound on the volunteers, not on this call
        max_volunteers: int | None = None,
        single: bool = False,
    ) -> RoundOutcome:
        """Post an un-addressed request and return how its round ended.

        ``timeout`` bounds each volunteer's work, in seconds. ``single`` asks for one answer, so that different answers
        are a :class:`~agentsys.rounds.Contradiction`.
        """
        plain, labels = unwrap(value)
        document = to_json(plain)
        step, recorded = self._take("ask", [kind, document, timeout, max_volunteers, single])
        label = self._label.join(*labels)
        request = Request(step.key, self.run, kind, document, label, self.agent, self._deadline(timeout), single)
        if recorded is None:
            recorded = await self._post(step, request)
        else:
            self._skip_writes(recorded, repeated=recorded.key == step.key)
        posted: Any = recorded.value
        request = replace(request, id=recorded.key, deadline=posted["deadline"])
        bounds = Round(request, recorded.seq, timeout, max_volunteers or self._scope.max_volunteers)
        outcome, closed = await self._run_round(bounds)
        self._workspace.advance(max(closed, self.actor.kept.get(recorded.key, 0)))
        self.deliver(outcome.label)
        return outcome

    async def call(self, tool: str, /, **arguments: Any) -> Labelled[Any]:
        """Call a tool through the gateway.

        Raises :class:`PolicyDenied`, :class:`~agentsys.tool_calls.ToolFailed`,
        :class:`~agentsys.tool_calls.EffectInDoubt`.
        """
        plain, labels = unwrap_arguments(arguments)
        document: Any = to_json(plain)
        known = self._scope.gateway.tools.get(tool)
        asked = self._asked("call", tool, known.memo if known else None, document)
        step, recorded = self._take("call", [tool, document])
        question = None
        if recorded is None and known is not None and not self._scope.gateway.asks(tool):
            label, version = self._label.join(*labels.values()), version_of(known.function)
            question = self._scope.memo.question(asked, version, document, label)
        async with self._scope.memo.turn(question) as turn:
            return await self._make_call(tool, step, recorded, plain, labels, turn)

    async def _make_call(
        self,
        tool: str,
        step: Step,
        recorded: Step | None,
        arguments: dict[str, Any],
        labels: dict[str, Label],
        turn: Turn,
    ) -> Labelled[Any]:
        fresh = recorded is None
        if recorded is None:
            recorded = await self._decide_call(step, tool, arguments, labels, turn)
        outcome: Any = recorded.value
        self.deliver(recorded.label, *labels.values())
        if "denied" in outcome:
            raise PolicyDenied(f"The call of {tool} was denied by rule {outcome['denied']}: {outcome['reason']}.")
        if "memo" in outcome:
            return Labelled(outcome["value"], recorded.label.join(*labels.values()))
        declared = self._scope.gateway.tools.get(tool)
        if declared is None:
            raise UnknownTool(f"Run {self.run} needs the tool {tool!r}, which is not registered.")
        if "asked" in outcome:
            await self._approved(tool, outcome["effect"], fresh=fresh)
        effect = self._scope.board.effect(outcome["effect"])
        assert effect is not None, "the intent is one commit with the step, or with the approval"
        self._check()
        if declared.undo is not None:
            self._compensable.append((declared, effect.id))
        effect = await carry_out(self._scope.board, declared, effect, replaying=self._scope.replaying, turn=turn)
        self.deliver(label_of(effect))
        result = result_of(declared, effect)
        return replace(result, label=result.label.join(*labels.values()))

    @asynccontextmanager
    async def saga(self) -> AsyncIterator[None]:
        """Take back the compensable calls made inside, newest first, where the block ends with an error.

        A call in doubt is taken back too. The error goes on; what could not be taken back is noted on it, and on the
        board. Source: Garcia-Molina and Salem, "Sagas", SIGMOD 1987.
        """
        first = len(self._compensable)
        try:
            yield
        except Exception as error:
            for tool, effect in reversed(self._compensable[first:]):
                try:
                    await self._take_back(tool, effect)
                except (ToolFailed, EffectInDoubt) as failure:
                    error.add_note(failure.message)
            del self._compensable[first:]
            raise

    async def ask_person(self, question: Any) -> Labelled[Any]:
        """Ask the owner, and wait for the answer however long it takes; a run that is resumed goes on waiting.

        Raises :class:`PolicyDenied` where the owner may not read the question, and :class:`AnswerRefused`.
        """
        plain, labels = unwrap(question)
        document = to_json(plain)
        step, recorded = self._take("question", document)
        fresh = recorded is None
        if recorded is None:
            label = self._label.join(*labels)
            self.decisions.require("ask a person", self._scope.gateway.decide_question("this", label))
            approval = approval_of_question(self._scope, self.actor, step, self._identity(step), document, label)
            recorded = await self._post_approval(replace(step, value={"asked": approval.id}), approval)
        self.deliver(recorded.label)
        outcome: Any = recorded.value
        answered = await decided(self._scope, self.actor, outcome["asked"], fresh=fresh)
        self.deliver(answered.label)
        if answered.status == "refused":
            raise AnswerRefused(f"{answered.decided_by} refused to answer{': ' * bool(answered.note)}{answered.note}.")
        return Labelled(answered.answer, answered.label)

    async def generate(
        self,
        prompt: str | Sequence[Message],
        *,
        constraint: Constraint | None = None,
        schema: type[BaseModel] | None = None,
        sampling: SamplingParams | None = None,
        model: str | None = None,
        memo: Memoise | None = None,
    ) -> Labelled[Any]:
        """Ask a model; the answer is text, or an object of ``schema``, with the label of all that was delivered.

        With ``memo``, an equal question under an equal label is asked once; the sampling must be deterministic.
        """
        if schema is not None:
            if constraint is not None:
                raise ValueError("give either a constraint or a schema, not both")
            constraint = schema_constraint(schema)
        messages = [Message("user", prompt)] if isinstance(prompt, str) else list(prompt)
        answer = await self._ask_model("generate", messages, [], constraint, sampling, model, memo)
        return answer if schema is None else replace(answer, value=parse_answer(schema, answer.value))

    async def extract(
        self,
        value: Labelled[Any],
        schema: type[M],
        *,
        model: str | None = None,
        max_tokens: int = 512,
        memo: Memoise | None = None,
    ) -> Labelled[M]:
        """Read ``value`` into ``schema`` with a quarantined call: no tools, no history, a schema fixed beforehand.

        The influencers stay; the capacity of the result is what the schema admits, whatever the value says.
        """
        plain, labels = unwrap(value)
        text = plain if isinstance(plain, str) else json.dumps(to_json(plain), ensure_ascii=False)
        messages = [
            Message("system", extraction_prompt(schema)),
            Message("user", text),
        ]
        sampling = SamplingParams(max_tokens=max_tokens)
        answer = await self._ask_model("extract", messages, labels, schema_constraint(schema), sampling, model, memo)
        bounded = replace(answer.label, capacity=min(answer.label.capacity, capacity_of(schema)))
        return Labelled(parse_answer(schema, answer.value), bounded)

    def conclude(self) -> tuple[Transaction, str]:
        """Hand over the last transaction, with the decisions not yet recorded, and the digest of its writes."""
        self._check()
        writes = self._workspace.writes_digest()
        transaction = self._workspace.take()
        self.decisions.write(transaction, f"{self.actor.path}#{self.actor.attempt}:end", self._label)
        return transaction, writes

    async def _run_round(self, bounds: Round) -> tuple[RoundOutcome, int]:
        if self.actor.rated is None:
            return await self._scope.run_round(bounds)
        async with self._scope.agenda.pause(self.actor.rated):
            return await self._scope.run_round(bounds)

    def _deadline(self, timeout: float | None) -> float | None:
        bounds = [self.actor.deadline, None if timeout is None else time.time() + timeout]
        return min((bound for bound in bounds if bound is not None), default=None)

    async def _post(self, step: Step, request: Request) -> Step:
        body = {name: getattr(request, name) for name in ("kind", "value", "asked_by", "deadline", "single")}
        value: Json = {"writes": self._workspace.writes_digest(), "deadline": request.deadline}
        writing = self._workspace.has_writes
        transaction = self._workspace.take()
        transaction.put(topics.requests(self.run), step.key, body, type="request", label=request.label)
        recorded = await self._record(replace(step, value=value, label=request.label), transaction)
        if writing:
            self.kept = recorded.key
        self._workspace.advance(recorded.seq)
        self._scope.emit(RequestPosted(self.run, step.key, request.kind, request.value, self.agent))
        return recorded

    def _skip_writes(self, recorded: Step, *, repeated: bool) -> None:
        """Drop the writes that the recorded commit already holds; only an attempt ``repeated`` must make the same."""
        outcome: Any = recorded.value
        same = outcome["writes"] == self._workspace.writes_digest()
        if not same and not repeated:
            return
        if not same:
            self._fault = ReplayDivergence(
                f"The writes committed with step {recorded.key} of run {self.run} differ from the recorded ones."
            )
            raise self._fault
        if self._workspace.has_writes:
            self.kept = recorded.key
        if repeated or self._workspace.has_writes:
            self._workspace.drop()
            self._workspace.advance(recorded.seq)

    async def _decide_call(
        self, step: Step, tool: str, arguments: dict[str, Any], labels: dict[str, Label], turn: Turn
    ) -> Step:
        gateway = self._scope.gateway
        missing = await gateway.prepare(tool)
        decision = missing or gateway.decide(tool, arguments, control=self._label, labels=labels)
        label = self._label.join(*labels.values())
        if isinstance(decision, AskCall):
            approval = approval_of_call(self._scope, self.actor, step, self._identity(step), decision, label)
            step = replace(step, value={"effect": approval.id, "asked": decision.rule})
            return await self._post_approval(step, approval)
        transaction = self._scope.journal.begin(f"agent:{self.agent}")
        self.decisions.note(f"call {tool}", decision, label)
        if isinstance(decision, Deny):
            value: Json = {"denied": decision.rule, "reason": decision.reason}
            return await self._record(replace(step, value=value, label=label), transaction)
        if turn.found is not None:
            value = {"tool": tool, "arguments": decision.arguments, "value": turn.found.answer, "memo": turn.key}
            step = replace(step, value=value, label=label.join(turn.found.label))
            return await self._record(step, transaction, [turn.found.ref])
        effect, effect_class = self._identity(step), decision.tool.effect_class
        transaction.plan_effect(EffectIntent(effect, self.run, step.key, tool, effect_class, decision.arguments, label))
        return await self._record(replace(step, value={"effect": effect}, label=label), transaction)

    async def _take_back(self, tool: Tool, effect: str) -> None:
        """Undo a call, as an effect of its own, unless it failed. Raises what a call of the undoing tool raises."""
        made, undo = self._scope.board.effect(effect), tool.undo
        assert made is not None and undo is not None, "only compensable calls that were planned are kept"
        if made.state is EffectState.FAILED:
            return
        step, recorded = self._take("compensate", effect)
        if recorded is None:
            # Allowed with the call itself: to leave it standing would be the harm.
            self.decisions.note(f"call {undo.name}", Allow("compensation"))
            intent = compensation(self._identity(step), step.key, made, undo, self._label)
            transaction = self._scope.journal.begin(f"agent:{self.agent}")
            transaction.plan_effect(intent)
            recorded = await self._record(replace(step, value={"effect": intent.id}, label=intent.label), transaction)
        outcome: Any = recorded.value
        undoing = self._scope.board.effect(outcome["effect"])
        assert undoing is not None, "the step and its intent are one commit"
        undone = await carry_out(self._scope.board, undo, undoing, replaying=self._scope.replaying)
        self.deliver(label_of(undone))
        result_of(undo, undone)
        await note_compensated(self._scope.board, effect)

    async def _post_approval(self, step: Step, approval: Approval) -> Step:
        transaction = self._scope.journal.begin(f"agent:{self.agent}")
        approval.write(transaction)
        return await self._record(replace(step, label=approval.label), transaction)

    async def _approved(self, tool: str, approval: str, *, fresh: bool) -> None:
        """Return once a person approved a call, which commits its intent. Raises :class:`PolicyDenied`."""
        answered = await decided(self._scope, self.actor, approval, fresh=fresh)
        self.deliver(answered.label)
        if isinstance(answered.verdict, Deny):
            raise PolicyDenied(f"The call of {tool} was refused: {answered.verdict.reason}.")

    async def _ask_model(
        self,
        kind: str,
        messages: list[Message],
        labels: Sequence[Label],
        constraint: Constraint | None,
        sampling: SamplingParams | None,
        model: str | None,
        memo: Memoise | None,
    ) -> Labelled[Any]:
        sampling = sampling or SamplingParams()
        check_deterministic(memo, sampling)
        asked = self._asked(kind, model or "", memo, {})
        label = self._label.join(*labels)
        chat: list[Json] = [[message.role, message.content] for message in messages]
        grammar: Json = None if constraint is None else [constraint.kind, constraint.source]
        parameters: Json = [chat, grammar, to_json(asdict(sampling)), model]
        step, recorded = self._take(kind, parameters)
        if recorded is None:
            urgency, tags = self._scope.urgency(self.actor.deadline), {"run": self.run, "agent": self.agent}
            request = GenerateRequest(messages, sampling, constraint, urgency, label, tags=tags)
            question = self._scope.memo.question(asked, identity_of(self._scope.model, model), parameters, label)
            async with self._scope.memo.turn(question) as turn:
                value = await answer_of_model(self._scope, self.agent, self.decisions, step.key, request, model, turn)
                recorded = await self._record_answer(replace(step, value=value, label=label), turn)
        outcome: Any = recorded.value
        label = recorded.label.join(label)
        self.deliver(label)
        if "denied" in outcome:
            raise PolicyDenied(f"{self.agent} may not ask the model, by rule {outcome['denied']}: {outcome['reason']}.")
        if "failure" in outcome:
            raise ModelFailed(Failure(**outcome["failure"]))
        return Labelled(outcome["text"], label)

    def _asked(self, kind: str, name: str, memo: Memoise | None, arguments: dict[str, Any]) -> Asked:
        """Read what the answer of a memoised call follows from beside its parameters."""
        read = [self.read(topic, key) for topic, key in memo.addresses(arguments)] if memo is not None else []
        absent = any(entry is None or entry.version == 0 for entry in read)
        return Asked(kind, name, memo, None if absent else tuple(entry.ref for entry in read if entry is not None))

    async def _record_answer(self, step: Step, turn: Turn) -> Step:
        if turn.found is not None:
            return await self._record(replace(step, label=step.label.join(turn.found.label)), None, [turn.found.ref])
        transaction = self._scope.journal.begin(f"agent:{self.agent}")
        value: Any = step.value
        if "text" in value:
            turn.keep(transaction, value, step.label)
        return await self._record(step, transaction)
