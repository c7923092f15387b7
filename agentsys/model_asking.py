"""Asking models: in the open, where the answer is delivered to the actor, and in quarantine, where it stays hidden."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from agentsys.asking import approval_of_value
from agentsys.blackboard.entries import EntryVersionRef, Json
from agentsys.blackboard.labels import Label
from agentsys.capacity import capacity_of
from agentsys.gateway import Allow, Deny, PolicyDenied
from agentsys.handles import Handle, Hidden, NoValue
from agentsys.journal import Step
from agentsys.labelled import Labelled, sources_of, unwrap
from agentsys.memoisation import Memoise, Turn, check_deterministic
from agentsys.model_calls import answer_of_model
from agentsys.models import InvalidAnswer, ModelFailed, identity_of
from agentsys.policy.domains import Member
from agentsys.policy.endorsers import PERSON, Endorser, answer_form
from agentsys.questions import UNKNOWN_ENDORSER, about_endorser, about_person
from agentsys.quotas import QuotaExceeded, charges_of_endorsement
from agentsys.recorded_sampling import sampling_forms
from agentsys.rounds import Failure
from agentsys.schemas import extraction_prompt, parse_answer, schema_constraint
from agentsys.serving.requests import Constraint, GenerateRequest, Message, SamplingParams
from agentsys.tool_calling import ToolCalling
from agentsys.tools import to_json

M = TypeVar("M", bound=BaseModel)


class ModelAsking(ToolCalling):
    """What a :class:`~agentsys.context.Context` knows of models, and of those who vouch for what was read."""

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

    @overload
    async def extract(
        self, value: Handle, schema: type[M], *, question: str = "", model: str | None = None, max_tokens: int = 512
    ) -> Handle: ...

    @overload
    async def extract(
        self,
        value: Labelled[Any],
        schema: type[M],
        *,
        question: str = "",
        model: str | None = None,
        max_tokens: int = 512,
        memo: Memoise | None = None,
    ) -> Labelled[M]: ...

    async def extract(
        self,
        value: Labelled[Any] | Handle,
        schema: type[M],
        *,
        question: str = "",
        model: str | None = None,
        max_tokens: int = 512,
        memo: Memoise | None = None,
    ) -> Labelled[M] | Handle:
        """Read ``value`` into ``schema`` with a quarantined call: no tools, no history, a schema fixed beforehand.

        The influencers stay; the capacity of the result is what the schema admits, whatever the value says. What is
        read from a handle is hidden as well, that nothing could be read included.
        """
        if isinstance(value, Handle):
            return self._handle(await self._extract_hidden(value, schema, question, model, max_tokens))
        (plain, labels), sources = unwrap(value), sources_of(value)
        self.learn(sources)
        try:
            answer = await self._quarantined(plain, labels, schema, question, model, max_tokens, memo, sources)
        except ModelFailed:
            # That it could not be read, and why, follows from what it is.
            self.deliver(*labels)
            raise
        self.deliver(answer.label)
        return Labelled(parse_answer(schema, answer.value), _bounded(answer.label, schema))

    async def choose(self, value: Handle, endorser: str, question: str = "", *, model: str | None = None) -> Handle:
        """Let a quarantined model choose, by what ``value`` says, from the domain of an endorser, which vouches for it.

        Raises what :meth:`endorse` does.
        """
        by, members, among = await self._endorser(endorser)
        form = answer_form(by, members)
        chosen = await self._extract_hidden(value, form, question, model, 512, among)
        return await self._endorse(self._handle(chosen)["value"], endorser, by, members, among)

    async def endorse(self, value: Handle, endorser: str, what: str = "a value") -> Handle:
        """Return ``value`` vouched for by an endorser of the policy, if it is in its domain; if not, that is hidden.

        The endorser ``person`` is asked, and told ``what`` it is; the word holds wherever the value is then used.
        Raises :class:`PolicyDenied` where the person refuses, no such endorser is declared, its directory is not
        trusted, or the influencers' budget of bits is used up.
        """
        if endorser == PERSON:
            return await self._endorse_by_person(value, what)
        by, members, among = await self._endorser(endorser)
        return await self._endorse(value, endorser, by, members, among)

    async def _endorse_by_person(self, value: Handle, what: str) -> Handle:
        try:
            given = to_json(unwrap(value)[0])
        except NoValue as nothing:
            return self._handle(Hidden(None, nothing.label, failure=nothing.message))
        step, recorded = self._take("vouch", [what, given])
        fresh, sources = recorded is None, tuple(sources_of(value))
        if recorded is None:
            label = self._label.join(value.label)
            decision = self._scope.gateway.decide_question(what, label)
            self.decisions.require("ask a person", decision, about_person(what, label))
            identity, control = self._identity(step), self._label
            approval = approval_of_value(self._scope, self.actor, step, identity, what, given, control, value.label)
            recorded = await self._post_approval(step, approval, sources)
        answered = await self._answered(recorded, fresh=fresh, hide=True)
        if answered.status == "modified":
            return self._handle(Hidden(answered.granted, answered.label_of(answered.kind), sources=sources))
        label = answered.label.endorsed(PERSON, value.label.capacity, keeping=self.policy.trusted)
        return self._handle(Hidden(answered.granted, label, sources=sources))

    async def _endorser(self, name: str) -> tuple[Endorser, tuple[Member, ...], Label]:
        """Return an endorser, the members of its directory, and their label."""
        policy = self._scope.gateway.policy
        by = policy.endorsers.get(name)
        if by is None:
            denial = Deny("unknown-endorser", UNKNOWN_ENDORSER)
            self.decisions.require(f"endorse by {name}", denial, about_endorser(name))
            raise AssertionError("a denial raises")
        if by.domain is None:
            return by, (), self._label
        domain = policy.domains[by.domain]
        if domain.tool is None:
            return by, domain.members(None), self._label
        listing = await self.call_hidden(domain.tool)
        value, (label,) = self._unwrap(listing)
        if not policy.trusts(label):
            reason = f"the directory {by.domain} comes from {domain.tool}, whose result others than the trusted shape"
            self.decisions.require(f"endorse by {name}", Deny("untrusted-directory", reason))
        return by, domain.members(value), label

    async def _endorse(
        self, value: Handle, name: str, by: Endorser, members: tuple[Member, ...], among: Label
    ) -> Handle:
        try:
            given, failure = unwrap(value)[0], None
            admitted = by.admit(given, members)
        except Exception:
            # Whatever is wrong with it, in the same words: the reason would say more than the endorser's bits.
            given, admitted, failure = None, None, f"the endorser {name} refused it"
        policy, bits, action = self._scope.gateway.policy, by.bits(members), f"endorse by {name}"
        label = value.label.join(among).endorsed(name, bits, keeping=policy.trusted)
        step, recorded = self._take("endorse", [name, to_json(given), list(members), failure is None])
        sources = tuple(sources_of(value))
        if recorded is None:
            before = self.decisions.pending
            self.decisions.note(action, Allow("endorsed"), value.label, about_endorser(name))
            charges = charges_of_endorsement(policy, self.run, label, bits)
            body: Json = {"endorser": name, "bits": bits, "value": admitted, "refused": failure}
            try:
                await self._record_spending(replace(step, value=body, label=label), charges, derived_from=sources)
            except QuotaExceeded as exceeded:
                self.decisions.pending = before + self.decisions.pending
                self.decisions.require(action, Deny("quota", exceeded.message), about_endorser(name))
        return self._handle(Hidden(admitted, label, failure=failure, sources=sources))

    async def _extract_hidden(
        self,
        value: Handle,
        schema: type[BaseModel],
        question: str,
        model: str | None,
        max_tokens: int,
        among: Label | None = None,
    ) -> Hidden:
        label, sources = value.label.join(*([] if among is None else [among])), tuple(sources_of(value))
        try:
            plain, labels = unwrap(value)
            given = [*labels, label]
            answer = await self._quarantined(plain, given, schema, question, model, max_tokens, None, sources)
            label = _bounded(answer.label, schema)
            return Hidden(to_json(parse_answer(schema, answer.value)), label, sources=sources)
        except NoValue as nothing:
            return Hidden(None, label.join(nothing.label), failure=nothing.message, sources=sources)
        except (ModelFailed, InvalidAnswer) as failed:
            return Hidden(None, label.join(self._label), failure=failed.message, sources=sources)

    async def _quarantined(
        self,
        plain: Any,
        labels: list[Label],
        schema: type[BaseModel],
        question: str,
        model: str | None,
        max_tokens: int,
        memo: Memoise | None,
        sources: Sequence[EntryVersionRef] = (),
    ) -> Labelled[Any]:
        text = plain if isinstance(plain, str) else json.dumps(to_json(plain), ensure_ascii=False)
        messages = [Message("system", extraction_prompt(schema, question)), Message("user", text)]
        sampling = SamplingParams(max_tokens=max_tokens)
        constraint = schema_constraint(schema)
        return await self._ask_model("extract", messages, labels, constraint, sampling, model, memo, sources)

    async def _ask_model(
        self,
        kind: str,
        messages: list[Message],
        labels: Sequence[Label],
        constraint: Constraint | None,
        sampling: SamplingParams | None,
        model: str | None,
        memo: Memoise | None,
        sources: Sequence[EntryVersionRef] = (),
    ) -> Labelled[Any]:
        sampling = sampling or SamplingParams()
        check_deterministic(memo, sampling)
        asked = self._asked(kind, model or "", memo, {})
        label = self._label.join(*labels)
        chat: list[Json] = [[message.role, message.content] for message in messages]
        grammar: Json = None if constraint is None else [constraint.kind, constraint.source]
        parameters, *once = [[chat, grammar, form, model] for form in sampling_forms(sampling)]
        step, recorded = self._take(kind, parameters, once)
        if recorded is None:
            urgency, tags = self._scope.urgency(self.actor.deadline), {"run": self.run, "agent": self.agent}
            place = self._scope.place(self.agent, self.actor.deadline)
            request = GenerateRequest(messages, sampling, constraint, urgency, label, call=place, tags=tags)
            question = self._scope.memo.question(asked, identity_of(self._scope.model, model), parameters, label)
            with self._stopping():
                async with self._scope.memo.turn(question) as turn:
                    log = self.decisions
                    value = await answer_of_model(self._scope, self.agent, log, step.key, request, model, turn)
                    recorded = await self._record_answer(replace(step, value=value, label=label), turn, sources)
        outcome: Any = recorded.value
        label = recorded.label.join(label)
        if kind == "generate" or "denied" in outcome:
            self.deliver(label)
        if "denied" in outcome:
            raise PolicyDenied(f"{self.agent} may not ask the model, by rule {outcome['denied']}: {outcome['reason']}.")
        if "failure" in outcome:
            raise ModelFailed(Failure(**outcome["failure"]))
        return Labelled(outcome["text"], label)

    async def _record_answer(self, step: Step, turn: Turn, sources: Sequence[EntryVersionRef]) -> Step:
        if turn.found is not None:
            step = replace(step, label=step.label.join(turn.found.label))
            return await self._record(step, None, [turn.found.ref, *sources])
        transaction = self._scope.journal.begin(f"agent:{self.agent}")
        value: Any = step.value
        if "text" in value:
            turn.keep(transaction, value, step.label)
        return await self._record(step, transaction, sources)


def _bounded(label: Label, schema: type[BaseModel]) -> Label:
    return replace(label, capacity=min(label.capacity, capacity_of(schema)))
