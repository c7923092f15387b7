"""The tables of a board's database."""

from typing import Final

from sqlalchemy import Index, MetaData, Table, Text, text
from sqlmodel import Field, SQLModel

SCHEMA_VERSION: Final = 1


class BoardModel(SQLModel):
    """Base of the board's tables; their own metadata keeps them apart from other SQLModel tables of the process."""

    metadata = MetaData()


class BoardRow(BoardModel, table=True):
    """The one row of the board itself. ``head`` is the newest commit; ``epoch`` counts the openings for writing."""

    __tablename__ = "board"
    id: int = Field(primary_key=True)
    schema_version: int
    epoch: int
    head: int
    head_hash: str


class CommitRow(BoardModel, table=True):
    """One commit of the log; ``cursors`` is a JSON list of [subscription, from, to]."""

    __tablename__ = "commit_log"
    __table_args__ = (Index("commit_log_run", "run", "seq"),)
    seq: int = Field(primary_key=True)
    tx_id: str = Field(unique=True)
    principal: str
    run: str | None
    snapshot: int
    isolation: str
    committed_at: float
    cursors: str
    prev_hash: str
    hash: str


class EntryVersionRow(BoardModel, table=True):
    """One version of an entry, current from commit ``valid_from`` until just before ``valid_to``.

    ``value``, ``label``, ``derived_from`` and ``endorsement`` are JSON texts; a deletion has no ``value``.
    """

    __tablename__ = "entry_version"
    __table_args__ = (
        Index(
            "entry_head",
            "topic",
            "key",
            unique=True,
            sqlite_where=text("valid_to IS NULL"),
            postgresql_where=text("valid_to IS NULL"),
        ),
        Index("entry_valid_from", "valid_from"),
    )
    topic: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    valid_from: int
    valid_to: int | None
    ordinal: int
    type: str
    writer: str
    run: str | None
    value: str | None = Field(sa_type=Text)
    label: str
    derived_from: str = Field(sa_type=Text)
    endorsement: str | None
    committed_at: float


class EffectRow(BoardModel, table=True):
    """The unchanging part of an effect: its intent. ``arguments`` and ``label`` are JSON texts."""

    __tablename__ = "effect"
    __table_args__ = (Index("effect_run", "run"),)
    id: str = Field(primary_key=True)
    run: str | None
    step: str
    tool: str
    effect_class: str
    arguments: str = Field(sa_type=Text)
    label: str


class EffectEventRow(BoardModel, table=True):
    """One step of an effect, taken by commit ``seq``; the newest has no ``valid_to``."""

    __tablename__ = "effect_event"
    __table_args__ = (Index("effect_event_id", "effect_id"),)
    seq: int = Field(primary_key=True)
    ordinal: int = Field(primary_key=True)
    effect_id: str
    state: str
    attempt: int
    epoch: int
    result: str = Field(sa_type=Text)
    result_label: str | None
    committed_at: float
    valid_to: int | None


class CursorRow(BoardModel, table=True):
    """The durable position of a subscription: every commit up to it was handled. ``predicate`` is a JSON text."""

    __tablename__ = "cursor"
    name: str = Field(primary_key=True)
    predicate: str
    position: int


def _table(name: str) -> Table:
    return BoardModel.metadata.tables[name]


BOARD: Final = _table("board")
COMMITS: Final = _table("commit_log")
ENTRIES: Final = _table("entry_version")
EFFECTS: Final = _table("effect")
EFFECT_EVENTS: Final = _table("effect_event")
CURSORS: Final = _table("cursor")
