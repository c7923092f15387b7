"""One run as the faces show it: what was asked, who volunteered and answered, what was decided, what came out."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import TypeAdapter

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import Effect, EffectClass
from agentsys.blackboard.entries import Entry, Json
from agentsys.blackboard.predicates import Predicate
from agentsys.decisions import DecisionRecord
from agentsys.rounds import Failure
from agentsys.runs import RunRecord, UnknownRun
from agentsys.tool_calls import label_of
from agentsys.views.labels import ViewLabel
from agentsys.views.run_list import MODEL_STEPS, RunRow, run_row, usage_of, waiting_approvals
from agentsys.views.withholding import content

FROM_MEMO: Final = "from memo"
"""State of a tool call that was answered by an equal one made before."""


@dataclass(frozen=True, slots=True)
class BidView:
    """An agent's offer; ``reason`` is why it volunteered, or why its offer failed."""

    agent: str
    score: float | None = field(metadata=content())
    chosen: bool
    reason: str = field(metadata=content(hidden=""))
    label: ViewLabel
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class ResponseView:
    """What an agent gave: a value, or a failure."""

    agent: str
    status: str
    value: Json = field(metadata=content())
    failure: str = field(metadata=content(hidden=""))
    label: ViewLabel
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class RoundView:
    """A request, its bids (best first) and responses; ``outcome`` is ``None`` while the round is open."""

    request: str
    asked_by: str
    kind: str = field(metadata=content(hidden=""))
    value: Json = field(metadata=content())
    label: ViewLabel
    bids: tuple[BidView, ...]
    responses: tuple[ResponseView, ...]
    outcome: str | None
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class DecisionView:
    """What the gateway decided about one action of one agent, which knew what ``label`` says.

    ``asked`` says that a person was asked. ``policy`` is a version.
    """

    agent: str
    action: str = field(metadata=content(hidden=""))
    allowed: bool
    rule: str
    reason: str = field(metadata=content(hidden=""))
    asked: bool
    policy: str
    label: ViewLabel
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class ModelCallView:
    """A recorded model call; ``seconds`` from submission to the last token; ``fault`` is why there was no answer.

    One ``from_memo`` asked nobody: an equal call had been answered before.
    """

    step: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    text: str = field(metadata=content(hidden=""))
    fault: str = field(metadata=content(hidden=""))
    from_memo: bool
    label: ViewLabel
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class ToolCallView:
    """A tool call as the effect log has it; ``result`` is ``None`` until there is an outcome.

    One whose state is ``from memo`` was not made, as an equal one had been before; it has no ``effect``.
    """

    effect: str
    tool: str
    state: str
    effect_class: str
    attempts: int
    step: str
    arguments: Json = field(metadata=content())
    label: ViewLabel
    result: Json = field(metadata=content("result_label"))
    result_label: ViewLabel
    withheld: bool = False


@dataclass(frozen=True, slots=True)
class SourceView:
    """Where an answer came from."""

    family: str
    files: tuple[str, ...]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SpanView:
    """A piece of an answer that others than the trusted wrote, under its own label."""

    text: str
    label: ViewLabel


@dataclass(frozen=True, slots=True)
class AnswerView:
    """What came out, under the run's label. ``rows`` and ``columns`` are empty unless it is a query's result.

    ``attached`` is what others say, in the order of the numbers by which ``value`` refers to it.
    """

    value: Json
    plan: str | None
    columns: tuple[str, ...]
    rows: tuple[tuple[Json, ...], ...]
    sources: tuple[SourceView, ...]
    attached: tuple[SpanView, ...] = ()


_ANSWER: Final = TypeAdapter(AnswerView)


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything the run's page shows. ``answer`` is ``None`` unless the run is done."""

    row: RunRow
    input: Json = field(metadata=content("row.input_label"))
    failure: Failure | None = field(metadata=content("row.label"))
    rounds: tuple[RoundView, ...]
    decisions: tuple[DecisionView, ...]
    model_calls: tuple[ModelCallView, ...]
    tool_calls: tuple[ToolCallView, ...]
    answer: AnswerView | None = field(metadata=content("row.label"))
    withheld: bool = False


def load_run(board: Board, run: str) -> RunView:
    """Read a run as it stands. Raises :class:`UnknownRun`."""
    entry = board.get(topics.RUNS, run)
    if entry is None:
        raise UnknownRun(f"The board has no run {run!r}.")
    record = RunRecord.of(entry)
    entries = sorted(
        board.query(Predicate(topic_prefix=f"{topics.RESERVED_PREFIX}{run}/")), key=lambda found: found.seq
    )
    steps = [found for found in entries if found.topic == topics.steps(run)]
    return RunView(
        row=run_row(board, record, waiting_approvals(board)),
        input=record.input,
        failure=record.failure,
        rounds=tuple(_round(run, found, entries) for found in entries if found.topic == topics.requests(run)),
        decisions=tuple(decision_view(found) for found in entries if found.topic == topics.decisions(run)),
        model_calls=tuple(_model_call(found) for found in steps if _is_model_call(found)),
        tool_calls=(*map(_tool_call, board.effects(run=run)), *map(_remembered_call, filter(_is_remembered, steps))),
        answer=answer_view(record.value) if record.status == "done" else None,
    )


def failure_text(failure: Failure) -> str:
    return f"{failure.code} {failure.type}: {failure.message}"


def answer_view(value: Json) -> AnswerView:
    """Split what ``agentsys ask`` or a planner answers into its parts; any other value is shown whole."""
    # A workflow of the user's own may name what it returns alike, and mean something else.
    with suppress(KeyError, TypeError, ValueError):
        if isinstance(value, dict) and value.keys() == {"body", "spans"}:
            return _planned_answer(value)
        if isinstance(value, dict) and {"answer", "plan", "sources"} <= value.keys():
            return _answer_from_data(value)
    return AnswerView(value, None, (), (), ())


def _planned_answer(value: Any) -> AnswerView:
    attached = [span for span in value["spans"] if not span["own"]]
    return _ANSWER.validate_python(
        {"value": value["body"], "plan": None, "columns": (), "rows": (), "sources": (), "attached": attached}
    )


def _answer_from_data(value: dict[str, Json]) -> AnswerView:
    answer = _ANSWER.validate_python({"columns": (), "rows": (), **value, "value": value["answer"], "attached": ()})
    if any(len(row) != len(answer.columns) for row in answer.rows):
        raise ValueError("rows and columns are no table")
    return answer


def _round(run: str, request: Entry, entries: Iterable[Entry]) -> RoundView:
    posted: Any = request.value
    bids, responses, outcome = list[BidView](), list[ResponseView](), None
    for entry in entries:
        recorded: Any = entry.value
        if entry.topic == topics.bids(run, request.key):
            reason = recorded["failure"] or recorded["reason"]
            bids.append(BidView(entry.key, recorded["score"], recorded["chosen"], reason, entry.label))
        elif entry.topic == topics.responses(run, request.key):
            fault = failure_text(Failure(**recorded["failure"])) if recorded["failure"] else ""
            responses.append(ResponseView(entry.key, recorded["status"], recorded["value"], fault, entry.label))
        elif entry.topic == topics.rounds(run) and entry.key == request.key:
            outcome = recorded["outcome"]
    return RoundView(
        request=request.key,
        asked_by=posted["asked_by"],
        kind=posted["kind"],
        value=posted["value"],
        label=request.label,
        bids=tuple(sorted(bids, key=lambda bid: (-(bid.score or 0), bid.agent))),
        responses=tuple(responses),
        outcome=outcome,
    )


def decision_view(entry: Entry) -> DecisionView:
    """Return a recorded decision as a view."""
    made = DecisionRecord.of(entry)
    return DecisionView(
        made.agent, made.action, made.allowed, made.rule, made.reason, made.asked, made.policy, entry.label
    )


def _is_model_call(step: Entry) -> bool:
    recorded: Any = step.value
    return recorded["kind"] in MODEL_STEPS


def _model_call(step: Entry) -> ModelCallView:
    recorded: Any = step.value
    call = recorded["value"]
    usage = usage_of(step) or {}
    return ModelCallView(
        step=step.key,
        model=call.get("model", ""),
        prompt_tokens=usage.get("prompt_tokens", 0),
        completion_tokens=usage.get("completion_tokens", 0),
        seconds=call.get("seconds", 0.0),
        text=call.get("text", ""),
        fault=_fault(call),
        from_memo="memo" in call,
        label=step.label,
    )


def _tool_call(effect: Effect) -> ToolCallView:
    intent = effect.intent
    return ToolCallView(
        effect=effect.id,
        tool=intent.tool,
        state=str(effect.state),
        effect_class=str(intent.effect_class),
        attempts=effect.attempt,
        step=intent.step,
        arguments=intent.arguments,
        label=intent.label,
        result=effect.result,
        result_label=label_of(effect),
    )


def _is_remembered(step: Entry) -> bool:
    recorded: Any = step.value
    return recorded["kind"] == "call" and "memo" in recorded["value"]


def _remembered_call(step: Entry) -> ToolCallView:
    recorded: Any = step.value
    call = recorded["value"]
    return ToolCallView(
        effect="",
        tool=call["tool"],
        state=FROM_MEMO,
        effect_class=str(EffectClass.PURE),
        attempts=0,
        step=step.key,
        arguments=call["arguments"],
        label=step.label,
        result={"value": call["value"]},
        result_label=step.label,
    )


def _fault(call: dict[str, Any]) -> str:
    if "denied" in call:
        return f"denied by rule {call['denied']}: {call['reason']}"
    return failure_text(Failure(**call["failure"])) if "failure" in call else ""
