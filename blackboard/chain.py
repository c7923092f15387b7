"""The hash chain over the commit log: each commit's hash covers its content and the hash before it."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

from agentsys.blackboard.effects import Effect
from agentsys.blackboard.entries import Entry, canonical_json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.payloads import text_digest
from agentsys.blackboard.rows import label_to_text
from agentsys.blackboard.transactions import Commit

GENESIS: Final = "0" * 64
"""The hash before the first commit."""

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False)


def commit_hash(commit: Commit, digests: Sequence[str | None]) -> str:
    """Return the hash of ``commit`` (its own ``hash`` aside); ``digests`` are of the JSON texts of its writes' values.

    A digest instead of the text keeps the cost of escaping a large value a second time away.
    """
    content = [
        commit.prev_hash,
        commit.seq,
        commit.tx_id,
        commit.principal,
        commit.run,
        commit.snapshot,
        commit.isolation,
        commit.at,
        [_entry(entry, digest) for entry, digest in zip(commit.writes, digests, strict=True)],
        [_effect(effect) for effect in commit.effects],
        [[move.subscription, move.from_seq, move.to_seq] for move in commit.cursors],
    ]
    return hashlib.sha256(_ENCODER.encode(content).encode()).hexdigest()


def chained(commit: Commit, texts: Sequence[str | None]) -> Commit:
    """Return ``commit`` with its hash; ``texts`` are the JSON texts of its writes' values."""
    # What dataclasses.replace does, in a fifth of the time: this is done for every commit.
    return Commit(
        commit.seq,
        commit.tx_id,
        commit.principal,
        commit.run,
        commit.snapshot,
        commit.isolation,
        commit.at,
        commit.writes,
        commit.effects,
        commit.cursors,
        commit.prev_hash,
        commit_hash(commit, [None if text is None else text_digest(text) for text in texts]),
    )


def _entry(entry: Entry, digest: str | None) -> list[Any]:
    return [
        entry.topic,
        entry.key,
        entry.version,
        entry.type,
        entry.writer,
        entry.run,
        entry.committed_at,
        digest,
        label_to_text(entry.label),
        [[ref.topic, ref.key, ref.version] for ref in entry.derived_from],
        None if entry.endorsement is None else [entry.endorsement.by, entry.endorsement.reason],
    ]


def _effect(effect: Effect) -> list[Any]:
    intent = effect.intent
    return [
        intent.id,
        intent.run,
        intent.step,
        intent.tool,
        intent.effect_class.value,
        canonical_json(intent.arguments),
        _label(intent.label),
        effect.state.value,
        effect.attempt,
        effect.epoch,
        effect.at,
        canonical_json(effect.result),
        None if effect.result_label is None else _label(effect.result_label),
    ]


@lru_cache(maxsize=4096)
def _label(label: Label) -> dict[str, Any]:
    return label.to_json()
