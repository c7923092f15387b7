"""The documents of the HTTP API. Times are unix seconds, durations seconds, sequence numbers count from 1.

The API answers the board's owner. What the readers of a label exclude the owner from is withheld: the value is null
and ``withheld`` is true.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentsys.blackboard.commits import Commit
from agentsys.blackboard.entries import Entry, canonical_json
from agentsys.blackboard.labels import Label
from agentsys.runs import RunRecord
from agentsys.views.withholding import may_read

MAX_NUMBER = 2**53
"""Whole numbers above this are not exact in JSON."""

NO_NUL = r"^[^\x00]*$"
"""What no name holds: some databases cannot even be asked for one."""


class ErrorBody(BaseModel):
    """What went wrong, and what to do about it."""

    code: str
    type: str
    message: str
    remedy: str


class ErrorDocument(BaseModel):
    """The answer to a request that failed."""

    error: ErrorBody


class LabelDocument(BaseModel):
    """A label; ``readers`` null is everyone, ``capacity`` (bits) null is free text."""

    influencers: list[str]
    readers: list[str] | None
    capacity: float | None
    endorsements: list[tuple[str, str]] = Field(default_factory=list, description="pairs of endorser and influencer")

    @staticmethod
    def of(label: Label) -> LabelDocument:
        return LabelDocument(**label.to_json())


class FailureDocument(BaseModel):
    """Why a run failed."""

    code: str
    type: str
    message: str
    remedy: str


class StartRun(BaseModel):
    """A run to start. Its input counts as written by the board's owner, who holds the token."""

    model_config = ConfigDict(extra="forbid")

    workflow: str = Field(max_length=200)
    input: Any = None
    deadline_seconds: float | None = Field(None, gt=0, le=10**9, allow_inf_nan=False)
    run_id: str | None = Field(None, min_length=1, max_length=100)

    @field_validator("input")
    @classmethod
    def _is_json(cls, value: Any) -> Any:
        """Raise :class:`InvalidValue` for what the board cannot hold: here is read more than JSON, and of any depth."""
        canonical_json(value)
        return value


class ForkRun(BaseModel):
    """Where a run is forked: ``at`` a commit, or null for its beginning."""

    model_config = ConfigDict(extra="forbid")

    at: int | None = Field(None, ge=0, le=MAX_NUMBER)
    run_id: str | None = Field(None, min_length=1, max_length=100)


class RunReference(BaseModel):
    """Which run a request started or changed."""

    run: str


class RunDocument(BaseModel):
    """A run as it stands."""

    run: str
    workflow: str
    status: str
    input: Any
    input_label: LabelDocument
    started: float
    deadline: float | None
    finished: float | None
    value: Any
    label: LabelDocument | None
    failure: FailureDocument | None
    origin: Any
    withheld: bool = False

    @staticmethod
    def of(record: RunRecord, reader: str) -> RunDocument:
        sees_input = may_read(record.input_label, reader)
        sees_result = record.label is None or may_read(record.label, reader)
        failure = record.failure
        return RunDocument(
            run=record.run,
            workflow=record.workflow,
            status=record.status,
            input=record.input if sees_input else None,
            input_label=LabelDocument.of(record.input_label),
            started=record.started,
            deadline=record.deadline,
            finished=record.finished,
            value=record.value if sees_result else None,
            label=None if record.label is None else LabelDocument.of(record.label),
            failure=FailureDocument.model_validate(failure.to_json()) if failure and sees_result else None,
            origin=record.origin if sees_input else None,
            withheld=not (sees_input and sees_result),
        )


class EventDocument(BaseModel):
    """Something that happened in a run; ``number`` grows from event to event, and leaps where the run is resumed."""

    number: int
    type: str
    data: dict[str, Any]


class EventList(BaseModel):
    """Events after a number, and how the run stands.

    ``executing`` says whether this server executes it, ``elsewhere`` whether another process does, ``waiting`` whether
    it was put on record for any worker and none has taken it yet.
    """

    run: str
    status: str
    executing: bool
    elsewhere: bool = False
    waiting: bool = False
    events: list[EventDocument]


class EntryDocument(BaseModel):
    """One version of one entry of the board."""

    topic: str
    key: str
    version: int
    type: str
    value: Any
    withheld: bool
    deleted: bool
    label: LabelDocument
    seq: int
    committed_at: float
    writer: str
    run: str | None
    derived_from: list[str]

    @staticmethod
    def of(entry: Entry, reader: str) -> EntryDocument:
        seen = may_read(entry.label, reader)
        return EntryDocument(
            topic=entry.topic,
            key=entry.key,
            version=entry.version,
            type=entry.type,
            value=entry.value if seen else None,
            withheld=not seen,
            deleted=entry.deleted,
            label=LabelDocument.of(entry.label),
            seq=entry.seq,
            committed_at=entry.committed_at,
            writer=entry.writer,
            run=entry.run,
            derived_from=[f"{ref.topic}/{ref.key}@{ref.version}" for ref in entry.derived_from],
        )


class EffectDocument(BaseModel):
    """A step of a tool call."""

    id: str
    tool: str
    state: str
    attempt: int


class CommitDocument(BaseModel):
    """One committed transaction; ``hash`` covers it and every commit before it."""

    seq: int
    at: float
    run: str | None
    principal: str
    snapshot: int
    hash: str
    writes: list[EntryDocument]
    effects: list[EffectDocument]

    @staticmethod
    def of(commit: Commit, reader: str) -> CommitDocument:
        return CommitDocument(
            seq=commit.seq,
            at=commit.at,
            run=commit.run,
            principal=commit.principal,
            snapshot=commit.snapshot,
            hash=commit.hash,
            writes=[EntryDocument.of(entry, reader) for entry in commit.writes],
            effects=[
                EffectDocument(id=effect.id, tool=effect.intent.tool, state=str(effect.state), attempt=effect.attempt)
                for effect in commit.effects
            ],
        )


class BoardDocument(BaseModel):
    """How the board stands."""

    head: int
    epoch: int


class Health(BaseModel):
    """That the server answers, and whom: ``principal`` is who calls."""

    status: Literal["ok"] = "ok"
    version: str
    head: int
    principal: str


class AgentDocument(BaseModel):
    """An agent, and the kinds of request it is offered."""

    name: str
    interests: list[str]
    profile: str


class ToolDocument(BaseModel):
    """A tool, and what the gateway knows about it."""

    name: str
    description: str
    effect: str
    consequential: bool
    parameters: dict[str, Any]
    audience: list[str] | None
    timeout_seconds: float


class WorkflowDocument(BaseModel):
    """A workflow that runs can be started of."""

    name: str
    deadline_seconds: float | None
