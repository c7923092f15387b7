"""Why a step was allowed or denied: the rule that decided, the labels it looked at, and where they came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agentsys import topics
from agentsys.approvals import Approval, UnknownApproval
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Label
from agentsys.blackboard.predicates import Predicate
from agentsys.decisions import DecisionRecord
from agentsys.errors import RunError
from agentsys.runs import RunRecord
from agentsys.views.approvals import ApprovalView, approval_view
from agentsys.views.labels import ViewLabel
from agentsys.views.provenance import LabelOrigin, ProvenanceNode, load_provenance
from agentsys.views.run_view import DecisionView, decision_view
from agentsys.views.texts import shorten, value_text
from agentsys.views.withholding import content

CALLER = "the caller"
"""Name of the part of a decision that is the label of whoever wants something."""


class UnknownStep(RunError):
    """A run has no step of this name, or several begin so."""

    code = "AGS-0337"
    remedy = "List the run's steps with `agentsys why RUN`."


@dataclass(frozen=True, slots=True)
class StepRow:
    """A step of a run, by its key, and what was decided about it: ``allowed``, ``denied``, ``asked``, or nothing."""

    step: str
    kind: str
    seq: int
    outcome: str
    rule: str
    action: str = field(metadata=content(hidden=""))
    label: ViewLabel
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class PartView:
    """What a decision looked at: the caller's label, or an argument's."""

    name: str
    label: ViewLabel


@dataclass(frozen=True, slots=True)
class DecidedView:
    """A decision with the labels that it was made on."""

    key: str
    decision: DecisionView
    parts: tuple[PartView, ...]


@dataclass(frozen=True, slots=True)
class Why:
    """A step with everything that was decided about it.

    ``origins`` lead from the record at which an influencer came in to the step, over ``nodes``.
    """

    run: str
    step: str
    kind: str
    label: ViewLabel
    decisions: tuple[DecidedView, ...]
    approval: ApprovalView | None
    nodes: tuple[ProvenanceNode, ...]
    origins: tuple[LabelOrigin, ...]

    def node(self, identity: str) -> ProvenanceNode | None:
        return next((node for node in self.nodes if node.id == identity), None)


def list_steps(board: Board, run: str) -> tuple[StepRow, ...]:
    """Return the steps of a run in the order of their commits. Raises :class:`UnknownRun`."""
    RunRecord.load(board, run)
    decided = dict[str, list[Entry]]()
    for entry in board.query(Predicate(topic=topics.decisions(run))):
        decided.setdefault(entry.key.rpartition("/")[0], []).append(entry)
    steps = sorted(board.query(Predicate(topic=topics.steps(run))), key=lambda entry: entry.seq)
    return tuple(_row(step, sorted(decided.get(step.key, ()), key=lambda entry: entry.seq)) for step in steps)


def load_why(board: Board, run: str, step: str) -> Why:
    """Return why a step came out as it did; ``step`` is its key or an unambiguous part of it.

    Raises :class:`UnknownRun` and :class:`UnknownStep`.
    """
    entry = _find(board, run, step)
    decided = board.query(Predicate(topic=topics.decisions(run)))
    about = sorted((one for one in decided if one.key.rpartition("/")[0] == entry.key), key=lambda one: one.seq)
    provenance = load_provenance(board, entry.topic, entry.key)
    assert provenance is not None, "the step was just read"
    on_the_way = {name for origin in provenance.origins for name in origin.path}
    recorded: Any = entry.value
    return Why(
        run=run,
        step=entry.key,
        kind=recorded["kind"],
        label=entry.label,
        decisions=tuple(DecidedView(one.key, decision_view(one), _parts(one)) for one in about),
        approval=_approval(board, recorded["value"]),
        nodes=tuple(node for node in provenance.nodes if node.id in on_the_way),
        origins=provenance.origins,
    )


def _row(step: Entry, decided: list[Entry]) -> StepRow:
    recorded: Any = step.value
    last = DecisionRecord.of(decided[-1]) if decided else None
    outcome, rule, action = "", "", recorded["kind"]
    if last is not None:
        outcome = "asked" if last.asked else "allowed" if last.allowed else "denied"
        rule, action = last.rule, last.action
    label = step.label.join(*(entry.label for entry in decided))
    return StepRow(step.key, recorded["kind"], step.seq, outcome, rule, shorten(value_text(action)), label)


def _find(board: Board, run: str, step: str) -> Entry:
    RunRecord.load(board, run)
    exact = board.get(topics.steps(run), step)
    if exact is not None:
        return exact
    steps = board.query(Predicate(topic=topics.steps(run)))
    wanted = step.zfill(4) if step.isdecimal() else step
    found = [entry for entry in steps if entry.key.startswith(wanted) or entry.key.endswith(f":{wanted}")]
    if len(found) != 1:
        raise UnknownStep(f"{len(found) or 'No'} steps of run {run} are named {step!r}.")
    return found[0]


def _parts(decision: Entry) -> tuple[PartView, ...]:
    question: Any = DecisionRecord.of(decision).question or {}
    if question.get("kind") == "call":
        labels = {CALLER: question["control"], **question["labels"]}
        return tuple(PartView(name, Label.from_json(label)) for name, label in labels.items())
    return (PartView(CALLER, Label.from_json(question["label"])),) if "label" in question else ()


def _approval(board: Board, outcome: Any) -> ApprovalView | None:
    if not isinstance(outcome, dict) or "asked" not in outcome:
        return None
    try:
        return approval_view(Approval.load(board, str(outcome["asked"])))
    except UnknownApproval:
        return None
