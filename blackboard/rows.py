"""Translation between board records and table rows."""

import json
from collections.abc import Iterable
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from typing import Any, Final, TypeAlias, get_args

from sqlalchemy import ColumnElement, FromClause, Row, func, select

from agentsys.blackboard.commits import Commit, CursorMove, Isolation
from agentsys.blackboard.effects import Effect, EffectClass, EffectIntent, EffectState
from agentsys.blackboard.entries import Endorsement, Entry, EntryVersionRef, canonical_json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.payloads import LARGE, erased_value, payload_id
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.schema import ENTRIES, PAYLOADS
from agentsys.blackboard.storage import BoardCorrupt, CursorState

Values: TypeAlias = dict[str, Any]
AnyRow: TypeAlias = Row[*tuple[Any, ...]]

_ENTRY_NAMES: Final = [column.name for column in ENTRIES.columns if column.name not in ("valid_to", "ordinal")]
_ISOLATIONS: Final[dict[str, Isolation]] = {name: name for name in get_args(Isolation)}


@lru_cache(maxsize=4096)
def label_to_text(label: Label) -> str:
    return canonical_json(label.to_json())


@lru_cache(maxsize=4096)
def label_from_text(text: str) -> Label:
    return Label.from_json(json.loads(text))


def refs_to_text(refs: tuple[EntryVersionRef, ...]) -> str:
    # By hand in a third of the encoder's time: this is done twice for every write of every commit.
    return f"[{','.join([f'[{quoted(ref.topic)},{quoted(ref.key)},{ref.version!r}]' for ref in refs])}]"


def entry_columns(entries: FromClause) -> list[ColumnElement[Any]]:
    """Return the columns of an entry, among them the value wherever it is stored; ``entries`` is their table."""
    apart = select(PAYLOADS.c.text).where(PAYLOADS.c.id == entries.c.payload).correlate(entries).scalar_subquery()
    value = func.coalesce(entries.c.value, apart).label("value")
    return [value if name == "value" else entries.c[name] for name in _ENTRY_NAMES]


def entry_columns_text(entries: str, prefix: str = "") -> str:
    """Return :func:`entry_columns` as text, for a table with the alias ``entries``; ``prefix`` begins tables' names."""
    apart = f"SELECT text FROM {prefix}payload WHERE id = {entries}.payload"  # noqa: S608
    value = f"coalesce({entries}.value, ({apart})) AS value"
    return ", ".join(value if name == "value" else f'{entries}."{name}"' for name in _ENTRY_NAMES)


ENTRY_COLUMNS: Final = entry_columns(ENTRIES)


def entry_to_row(entry: Entry, text: str | None, ordinal: int) -> Values:
    """Return the row of ``entry`` as the current version; ``ordinal`` is its place among the commit's writes."""
    endorsement = entry.endorsement
    payload = None
    if text is not None and len(text) >= LARGE:
        payload, text = payload_id(entry.label, text), None
    return {
        "topic": entry.topic,
        "key": entry.key,
        "version": entry.version,
        "valid_from": entry.seq,
        "valid_to": None,
        "ordinal": ordinal,
        "type": entry.type,
        "writer": entry.writer,
        "run": entry.run,
        "value": text,
        "label": label_to_text(entry.label),
        "derived_from": refs_to_text(entry.derived_from),
        "endorsement": None if endorsement is None else canonical_json([endorsement.by, endorsement.reason]),
        "committed_at": entry.committed_at,
        "payload": payload,
    }


def entry_from_row(row: Iterable[Any]) -> Entry:
    """Return the entry in a row that begins with :data:`ENTRY_COLUMNS`."""
    topic, key, version, seq, type_, writer, run, text, label, derived_from, endorsement, at, payload, *_ = row
    value = None if text is None else json.loads(text)
    if text is None and payload is not None:
        value = erased_value(payload)
        if value is None:
            raise BoardCorrupt(f"The value of {topic}/{key}, version {version}, is missing.")
    return Entry(
        topic,
        key,
        type_,
        version,
        value,
        label_from_text(label),
        seq,
        writer,
        run,
        _refs_from_text(derived_from),
        at,
        None if endorsement is None else Endorsement(*json.loads(endorsement)),
        text is None and payload is None,
    )


def commit_to_row(commit: Commit) -> Values:
    return {
        "seq": commit.seq,
        "tx_id": commit.tx_id,
        "principal": commit.principal,
        "run": commit.run,
        "snapshot": commit.snapshot,
        "isolation": commit.isolation,
        "committed_at": commit.at,
        "cursors": _moves_to_text(commit.cursors),
        "prev_hash": commit.prev_hash,
        "hash": commit.hash,
    }


def commit_from_row(row: AnyRow, writes: Iterable[Entry], effects: Iterable[Effect]) -> Commit:
    """Return the commit in a row of the commit table's columns, with its writes and effects."""
    seq, tx_id, principal, run, snapshot, isolation, at, cursors, prev_hash, hash_ = row
    moves = tuple(CursorMove(*move) for move in json.loads(cursors))
    return Commit(
        seq,
        tx_id,
        principal,
        run,
        snapshot,
        _ISOLATIONS[isolation],
        at,
        tuple(writes),
        tuple(effects),
        moves,
        prev_hash,
        hash_,
    )


def intent_to_row(intent: EffectIntent) -> Values:
    return {
        "id": intent.id,
        "run": intent.run,
        "step": intent.step,
        "tool": intent.tool,
        "effect_class": intent.effect_class.value,
        "arguments": canonical_json(intent.arguments),
        "label": label_to_text(intent.label),
    }


def effect_to_row(effect: Effect, ordinal: int) -> Values:
    """Return the row of the effect's newest step; ``ordinal`` is its place among the commit's effects."""
    return {
        "seq": effect.seq,
        "ordinal": ordinal,
        "effect_id": effect.id,
        "state": effect.state.value,
        "attempt": effect.attempt,
        "epoch": effect.epoch,
        "result": canonical_json(effect.result),
        "result_label": None if effect.result_label is None else label_to_text(effect.result_label),
        "committed_at": effect.at,
        "valid_to": None,
    }


def effect_from_row(row: AnyRow) -> Effect:
    """Return the effect in a row that joins its intent and one of its steps."""
    values = row._mapping
    intent = EffectIntent(
        values["id"],
        values["run"],
        values["step"],
        values["tool"],
        EffectClass(values["effect_class"]),
        json.loads(values["arguments"]),
        label_from_text(values["label"]),
    )
    result_label = values["result_label"]
    return Effect(
        intent,
        EffectState(values["state"]),
        values["attempt"],
        values["epoch"],
        json.loads(values["result"]),
        None if result_label is None else label_from_text(result_label),
        values["seq"],
        values["committed_at"],
    )


def cursor_to_row(cursor: CursorState) -> Values:
    return {
        "name": cursor.name,
        "predicate": canonical_json(cursor.predicate.to_json()),
        "position": cursor.position,
    }


def cursor_from_row(row: AnyRow) -> CursorState:
    name, predicate, position = row
    return CursorState(name, Predicate.from_json(json.loads(predicate)), position)


def _moves_to_text(moves: tuple[CursorMove, ...]) -> str:
    return canonical_json([[move.subscription, move.from_seq, move.to_seq] for move in moves]) if moves else "[]"


def _refs_from_text(text: str) -> tuple[EntryVersionRef, ...]:
    return () if text == "[]" else tuple(EntryVersionRef(*ref) for ref in json.loads(text))
