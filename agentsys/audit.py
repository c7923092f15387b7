"""Audit: every decision on a run's record is made again from that record, under the policy that it names.

The policy of a version lies on the board from the first run under it on. A Python check is no part of it: decisions of
a policy with such checks are made again only by a runtime that has the very same. What tools declare is the runtime's.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentsys import topics
from agentsys.approval_use import judged
from agentsys.approvals import Approval
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import HistoryCompacted
from agentsys.blackboard.transactions import Transaction
from agentsys.decisions import DecisionRecord
from agentsys.gateway import Decision, Deny, Gateway
from agentsys.journal import Step
from agentsys.policy.policy import Policy
from agentsys.questions import about_write, decided_again, is_merge, merging
from agentsys.topics import is_reserved

CIRCUMSTANTIAL: Final = frozenset({"unavailable-tool", "check-timed-out", "secret"})
"""Rules that follow from how things were at that moment: such a denial is taken as recorded."""

SPENT: Final = "quota"
"""The rule by which a call was denied that the policy alone would have allowed."""

USED: Final = "/used"
"""How the key of a decision ends that a person's word led to."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """How a run's decisions compare with themselves made again; ``difference`` describes the first that differs.

    ``decisions`` counts those made again, agents' writes among them, ``taken`` those that no policy decides.
    """

    run: str
    decisions: int
    taken: int
    difference: str | None = None

    @property
    def identical(self) -> bool:
        return self.difference is None


def keep_policy(board: Board, policy: Policy, transaction: Transaction) -> None:
    """Put a policy on record with ``transaction``, unless its version is there."""
    if board.get(topics.POLICIES, policy.version) is None:
        label = Label.trusted(policy.owner)
        transaction.put(topics.POLICIES, policy.version, policy.canonical, type="policy", label=label, derived_from=())


async def audit(board: Board, gateway: Gateway, run: str) -> AuditReport:
    """Make every decision of a run again, in the order of their commits."""
    auditor, decisions, taken = _Auditor(board, gateway), 0, 0
    for entry in await asyncio.to_thread(_decided, board, run):
        try:
            difference = await auditor.difference(entry)
        except Exception as error:
            difference = f"cannot be made again: {type(error).__name__}: {error}"
        if difference is not None:
            return AuditReport(run, decisions, taken, f"{entry.topic}/{entry.key} of commit {entry.seq}: {difference}")
        if auditor.takes(entry):
            taken += 1
        else:
            decisions += 1
    return AuditReport(run, decisions, taken)


def _decided(board: Board, run: str) -> list[Entry]:
    """Return what tells of a decision: its record, or an agent's write, which only an allowed one is.

    What was written over since counts, as far as the board has it. Merges have a record, as their entries have also the
    labels of what was there before.
    """
    decided = board.query(Predicate(topic=topics.decisions(run)))
    merges = defaultdict[tuple[str, str], list[Label]](list)
    for record in map(DecisionRecord.of, decided):
        if record.allowed and is_merge(record.action):
            question: Any = record.question
            merges[f"agent:{record.agent}", record.action].append(Label.from_json(question["label"]))
    versions = [*board.query(Predicate(run=run)), *(entry for commit in board.log(run=run) for entry in commit.writes)]
    written = [
        entry
        for entry in {entry.ref: entry for entry in versions if _is_agents(entry)}.values()
        if not _is_merged(board, entry, merges[entry.writer, merging(entry.topic, entry.key)])
    ]
    return sorted([*decided, *written], key=lambda entry: (entry.seq, entry.topic, entry.key))


def _is_agents(entry: Entry) -> bool:
    # An entry's end has the entry's label beside that of who ended it.
    return entry.writer.startswith("agent:") and not is_reserved(entry.topic) and not entry.deleted


def _is_merged(board: Board, entry: Entry, merges: Sequence[Label]) -> bool:
    """Whether an entry follows from what stood there before and merges of such labels."""
    if not merges:
        return False
    before = board.begin(entry.writer, at=entry.seq - 1)
    try:
        before.get(*entry.address)
    except HistoryCompacted:
        return True
    return {*before.reads} <= {*entry.derived_from} and entry.label.flows_to(before.reads_label.join(*merges))


class _Auditor:
    def __init__(self, board: Board, gateway: Gateway) -> None:
        self._board = board
        self._gateway = gateway
        self._gateways: dict[str, Gateway] = {gateway.policy.version: gateway}

    def takes(self, entry: Entry) -> bool:
        """Whether a decision stands as it is recorded."""
        if not entry.topic.startswith(topics.RESERVED_PREFIX):
            return False
        recorded = DecisionRecord.of(entry)
        return not entry.key.endswith(USED) and (recorded.question is None or recorded.rule in CIRCUMSTANTIAL)

    async def difference(self, entry: Entry) -> str | None:
        """Return how a decision made again differs from the recorded one."""
        if not is_reserved(entry.topic):
            return await self._of_write(entry)
        recorded = DecisionRecord.of(entry)
        if self.takes(entry):
            return None
        gateway = await asyncio.to_thread(self._under, recorded.policy)
        if gateway is None:
            return f"the board has no policy of version {recorded.policy}"
        if entry.key.endswith(USED):
            return _compared(recorded, await self._used(entry, gateway))
        again = await decided_again(gateway, recorded.question)
        if recorded.rule == SPENT:
            return None if not isinstance(again, Deny) else _compared(recorded, again)
        return _compared(recorded, again)

    async def _used(self, entry: Entry, gateway: Gateway) -> Decision:
        step = await asyncio.to_thread(self._board.get, topics.steps(entry.run or ""), entry.key.removesuffix(USED))
        assert step is not None, "a word is used by the step that asked"
        asked = Step.of(step)
        outcome: Any = asked.value
        approval = await asyncio.to_thread(Approval.load, self._board, outcome["asked"])
        return (await judged(self._board, gateway, asked, approval)).decision

    async def _of_write(self, entry: Entry) -> str | None:
        again = await decided_again(self._gateway, about_write(entry.topic, entry.label))
        return f"an agent wrote it, and now it would be denied: {again.reason}" if isinstance(again, Deny) else None

    def _under(self, version: str) -> Gateway | None:
        if version not in self._gateways:
            kept = self._board.get(topics.POLICIES, version)
            policy = None if kept is None else Policy.model_validate(kept.value)
            if policy is None or policy.version != version:
                return None
            self._gateways[version] = Gateway(policy, self._gateway.tools, self._gateway.secrets)
        return self._gateways[version]


def _compared(recorded: DecisionRecord, again: Any) -> str | None:
    made = DecisionRecord.made(recorded.agent, recorded.action, again, recorded.policy, recorded.question)
    names = [name for name in ("allowed", "asked", "rule", "reason") if getattr(made, name) != getattr(recorded, name)]
    if not names:
        return None
    then, now = (", ".join(f"{name} {getattr(one, name)!r}" for name in names) for one in (recorded, made))
    return f"{recorded.action} was decided with {then}, and now with {now}"
