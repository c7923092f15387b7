"""What a commit's hash covers is one JSON list, whatever names and numbers are in it."""

import hashlib
import json
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsys.blackboard import chain
from agentsys.blackboard.board import Board
from agentsys.blackboard.chain import commit_hash, content_text
from agentsys.blackboard.commits import Commit, CursorMove
from agentsys.blackboard.effects import Effect, EffectClass, EffectIntent, EffectState
from agentsys.blackboard.entries import Endorsement, Entry, EntryVersionRef
from agentsys.blackboard.labels import PUBLIC, Label
from agentsys.blackboard.records import quickly
from agentsys.blackboard.rows import label_from_text, label_to_text

NAMES = st.text(max_size=8)
NUMBERS = st.integers(0, 2**62)
TIMES = st.floats(0, 1e12)
REFS = st.builds(EntryVersionRef, NAMES, NAMES, NUMBERS)
LABELS = st.builds(Label, st.frozensets(NAMES, max_size=2))
ENTRIES = st.builds(
    Entry,
    NAMES,
    NAMES,
    NAMES,
    NUMBERS,
    st.none(),
    LABELS,
    NUMBERS,
    NAMES,
    st.none() | NAMES,
    st.lists(REFS, max_size=3).map(tuple),
    TIMES,
    st.none() | st.builds(Endorsement, NAMES, NAMES),
)
EFFECTS = st.builds(
    lambda name, at: Effect(
        EffectIntent(name, None, "step", "tool", EffectClass.PURE, {"x": [name]}, Label()),
        EffectState.STARTED,
        1,
        2,
        None,
        None,
        3,
        at,
    ),
    NAMES,
    TIMES,
)
COMMITS = st.builds(
    Commit,
    NUMBERS,
    NAMES,
    NAMES,
    st.none() | NAMES,
    NUMBERS,
    st.sampled_from(["serializable", "snapshot"]),
    TIMES,
    st.lists(ENTRIES, max_size=3).map(tuple),
    st.lists(EFFECTS, max_size=1).map(tuple),
    st.lists(st.builds(CursorMove, NAMES, NUMBERS, NUMBERS), max_size=2).map(tuple),
    NAMES,
    st.just(""),
)


def compact(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


@given(COMMITS, st.none() | NAMES)
def test_the_text_is_what_an_encoder_writes(commit: Commit, digest: str | None) -> None:
    text = content_text(commit, [digest for _ in commit.writes])
    document = json.loads(text)
    assert compact(document) == text
    effects = document[9]
    assert document == [
        commit.prev_hash,
        commit.seq,
        commit.tx_id,
        commit.principal,
        commit.run,
        commit.snapshot,
        commit.isolation,
        commit.at,
        [
            [
                entry.topic,
                entry.key,
                entry.version,
                entry.type,
                entry.writer,
                entry.run,
                entry.committed_at,
                digest,
                json.dumps(entry.label.to_json(), separators=(",", ":"), ensure_ascii=False, sort_keys=True),
                [[ref.topic, ref.key, ref.version] for ref in entry.derived_from],
                None if entry.endorsement is None else [entry.endorsement.by, entry.endorsement.reason],
            ]
            for entry in commit.writes
        ],
        effects,
        [[move.subscription, move.from_seq, move.to_seq] for move in commit.cursors],
    ]
    assert [effect[0] for effect in effects] == [effect.intent.id for effect in commit.effects]
    assert [effect[10] for effect in effects] == [effect.at for effect in commit.effects]


def test_the_hash_of_a_commit_stays_what_it_was() -> None:
    # Boards of earlier versions hold such hashes.
    entry = Entry(
        "t", 'k"', "note", 2, None, Label.trusted("ä"), 7, "ä", None, (EntryVersionRef("t", "x\n", 1),), 1.5, None
    )
    commit = Commit(7, "id", "ä", None, 6, "serializable", 1.5, (entry,), (), (CursorMove("s", 1, 2),), "0" * 64, "")
    label = '{"capacity":null,"influencers":["ä"],"readers":["ä"]}'
    was = compact(
        [
            "0" * 64,
            7,
            "id",
            "ä",
            None,
            6,
            "serializable",
            1.5,
            [["t", 'k"', 2, "note", "ä", None, 1.5, "d", label, [["t", "x\n", 1]], None]],
            [],
            [["s", 1, 2]],
        ]
    )
    assert commit_hash(commit, ["d"]) == hashlib.sha256(was.encode()).hexdigest()


def test_a_whole_number_of_bits_is_verified_by_who_never_saw_the_label(tmp_path: Path) -> None:
    with Board.open(tmp_path / "board.db") as board:
        tx = board.begin("user:ann")
        tx.put("t", "k", 1, type="note", label=Label(frozenset({"user:ann"}), PUBLIC, 12_345))
        tx.plan_effect(EffectIntent("e", None, "s", "t", EffectClass.PURE, {}, Label(capacity=12_346)))
        board.commit(tx)
    # As in another process.
    for kept in (label_to_text, label_from_text, chain._quoted_label, chain._label):
        kept.cache_clear()
    with Board.open_read_only(tmp_path / "board.db") as board:
        assert board.verify() == 1


def test_a_number_stored_as_text_changes_the_hash() -> None:
    commit = Commit(7, "id", "p", None, 6, "serializable", 1.5, (), (), (), "0" * 64, "")
    assert commit_hash(replace(commit, snapshot="6"), []) != commit_hash(commit, [])  # type: ignore[arg-type]


def test_what_is_made_quickly_is_the_frozen_record_itself() -> None:
    quick = quickly(CursorMove)("s", 1, to_seq=2)
    assert type(quick) is CursorMove and quick == CursorMove("s", 1, 2) and hash(quick) == hash(CursorMove("s", 1, 2))
    with pytest.raises(FrozenInstanceError):
        quick.to_seq = 3  # type: ignore[misc]
    made = quickly(Entry)("t", "k", "note", 1, None, Label(), 1, "w", None, (), 1.5)
    assert made == Entry("t", "k", "note", 1, None, Label(), 1, "w", None, (), 1.5)


def test_a_record_that_checks_its_fields_is_not_made_quickly() -> None:
    with pytest.raises(TypeError, match="Label checks its fields"):
        quickly(Label)
