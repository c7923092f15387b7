"""The tables of a board's database."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import BigInteger, DateTime, Index, Integer, MetaData, String, Table, Text, text
from sqlmodel import Field, SQLModel

SCHEMA_VERSION: Final = 3

# Names sort and compare by code point, as Python's do and as SQLite's by default, whatever the database's locale is.
NAME: Final[Any] = String().with_variant(String(collation="C"), "postgresql")
# SQLite numbers rows by a primary key only if its type is called INTEGER.
NUMBER: Final[Any] = BigInteger().with_variant(Integer(), "sqlite")


class BoardModel(SQLModel):
    """Base of the board's tables; their own metadata keeps them apart from other SQLModel tables of the process."""

    metadata = MetaData()


class BoardRow(BoardModel, table=True):
    """The one row of the board itself. ``head`` is the newest commit; ``epoch`` counts the openings for writing.

    ``leader`` is the epoch of the opening whose commits are stored; all others are refused. ``horizon`` is the oldest
    state that can still be read: what only older ones need may be gone.
    """

    __tablename__ = "board"
    id: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    schema_version: int
    epoch: int = Field(sa_type=NUMBER)
    head: int = Field(sa_type=NUMBER)
    head_hash: str
    leader: int | None = Field(sa_type=NUMBER)
    horizon: int = Field(sa_type=NUMBER)


class CommitRow(BoardModel, table=True):
    """One commit of the log; ``cursors`` is a JSON list of [subscription, from, to]."""

    __tablename__ = "commit_log"
    __table_args__ = (Index("commit_log_run", "run", "seq"),)
    seq: int = Field(primary_key=True, sa_type=NUMBER, sa_column_kwargs={"autoincrement": False})
    tx_id: str = Field(unique=True, sa_type=NAME)
    principal: str
    run: str | None = Field(sa_type=NAME)
    snapshot: int = Field(sa_type=NUMBER)
    isolation: str
    committed_at: float
    cursors: str
    prev_hash: str
    hash: str


class EntryVersionRow(BoardModel, table=True):
    """One version of an entry, current from commit ``valid_from`` until just before ``valid_to``.

    ``value``, ``label``, ``derived_from`` and ``endorsement`` are JSON texts. ``payload`` names a value that is kept
    elsewhere; a deletion has neither.
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
        Index(
            "entry_payload",
            "payload",
            sqlite_where=text("payload IS NOT NULL"),
            postgresql_where=text("payload IS NOT NULL"),
        ),
    )
    # By the commit, not by the version's number: so the version that was current at a commit is found at once.
    topic: str = Field(primary_key=True, sa_type=NAME)
    key: str = Field(primary_key=True, sa_type=NAME)
    version: int
    valid_from: int = Field(primary_key=True, sa_type=NUMBER, sa_column_kwargs={"autoincrement": False})
    valid_to: int | None = Field(sa_type=NUMBER)
    ordinal: int
    type: str = Field(sa_type=NAME)
    writer: str
    run: str | None = Field(sa_type=NAME)
    value: str | None = Field(sa_type=Text)
    label: str
    derived_from: str = Field(sa_type=Text)
    endorsement: str | None
    committed_at: float
    payload: str | None


class PayloadRow(BoardModel, table=True):
    """A large value, stored once for each compartment. ``id`` is the compartment and the text's hash, as ``a:b``."""

    __tablename__ = "payload"
    id: str = Field(primary_key=True, sa_type=NAME)
    text: str = Field(sa_type=Text)


class EffectRow(BoardModel, table=True):
    """The unchanging part of an effect: its intent. ``arguments`` and ``label`` are JSON texts."""

    __tablename__ = "effect"
    __table_args__ = (Index("effect_run", "run"),)
    id: str = Field(primary_key=True, sa_type=NAME)
    run: str | None = Field(sa_type=NAME)
    step: str
    tool: str
    effect_class: str
    arguments: str = Field(sa_type=Text)
    label: str


class EffectEventRow(BoardModel, table=True):
    """One step of an effect, taken by commit ``seq``; the newest has no ``valid_to``."""

    __tablename__ = "effect_event"
    __table_args__ = (Index("effect_event_id", "effect_id"),)
    seq: int = Field(primary_key=True, sa_type=NUMBER, sa_column_kwargs={"autoincrement": False})
    ordinal: int = Field(primary_key=True)
    effect_id: str = Field(sa_type=NAME)
    state: str
    attempt: int
    epoch: int = Field(sa_type=NUMBER)
    result: str = Field(sa_type=Text)
    result_label: str | None
    committed_at: float
    valid_to: int | None = Field(sa_type=NUMBER)


class CursorRow(BoardModel, table=True):
    """The durable position of a subscription: every commit up to it was handled. ``predicate`` is a JSON text."""

    __tablename__ = "cursor"
    name: str = Field(primary_key=True, sa_type=NAME)
    predicate: str
    position: int = Field(sa_type=NUMBER)


class SnapshotLeaseRow(BoardModel, table=True):
    """Somebody's word that the states from ``snapshot`` on are still read.

    ``expires_at`` is in seconds of the database's clock, or of a machine's uptime (see ``upkeep``).
    """

    __tablename__ = "snapshot_lease"
    id: str = Field(primary_key=True, sa_type=NAME)
    snapshot: int = Field(sa_type=NUMBER)
    expires_at: float


class SharedModel(SQLModel):
    """Base of the tables through which several machines share a board; only PostgreSQL has them."""

    metadata = MetaData()


class SessionRow(SharedModel, table=True):
    """One opening of the board. It counts as alive until ``alive_until``, by the database's clock."""

    __tablename__ = "session"
    epoch: int = Field(primary_key=True, sa_type=NUMBER, sa_column_kwargs={"autoincrement": False})
    alive_until: datetime = Field(sa_type=DateTime(timezone=True))


class SubmissionRow(SharedModel, table=True):
    """A request to the leader, by the opening ``epoch``. ``taken_by`` names the term of the leader that has it.

    Not logged: after a crash of the server the table is empty, and who waits for an answer submits again.
    """

    __tablename__ = "submission"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)
    id: str = Field(primary_key=True)
    epoch: int = Field(sa_type=NUMBER)
    taken_by: str | None
    request: str = Field(sa_type=Text)
    answer: str | None = Field(sa_type=Text)


def _table(name: str) -> Table:
    model = BoardModel if name in BoardModel.metadata.tables else SharedModel
    return model.metadata.tables[name]


BOARD: Final = _table("board")
COMMITS: Final = _table("commit_log")
ENTRIES: Final = _table("entry_version")
PAYLOADS: Final = _table("payload")
EFFECTS: Final = _table("effect")
EFFECT_EVENTS: Final = _table("effect_event")
CURSORS: Final = _table("cursor")
SNAPSHOT_LEASES: Final = _table("snapshot_lease")
SESSIONS: Final = _table("session")
SUBMISSIONS: Final = _table("submission")
