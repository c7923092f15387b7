"""The hash chain over the commit log: each commit's hash covers its content and the hash before it."""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from json.encoder import encode_basestring as quoted
from typing import Any, Final

from agentsys.blackboard.commits import Commit
from agentsys.blackboard.effects import Effect
from agentsys.blackboard.entries import Entry, canonical_json
from agentsys.blackboard.labels import Label
from agentsys.blackboard.payloads import text_digest
from agentsys.blackboard.rows import label_to_text, refs_to_text

GENESIS: Final = "0" * 64
"""The hash before the first commit."""

_ENCODER: Final = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False)


def commit_hash(commit: Commit, digests: Sequence[str | None]) -> str:
    """Return the hash of ``commit`` (its own ``hash`` aside); ``digests`` are of the JSON texts of its writes' values.

    A digest instead of the text keeps the cost of escaping a large value a second time away.
    """
    return hashlib.sha256(content_text(commit, digests).encode()).hexdigest()


def content_text(commit: Commit, digests: Sequence[str | None]) -> str:
    """Return the JSON list that :func:`commit_hash` covers, without a blank.

    It is put together by hand, in half of the encoder's time: this is done for every commit.
    """
    entries = ",".join([_entry(entry, digest) for entry, digest in zip(commit.writes, digests, strict=True)])
    effects = _ENCODER.encode([_effect(effect) for effect in commit.effects]) if commit.effects else "[]"
    moves = [[move.subscription, move.from_seq, move.to_seq] for move in commit.cursors]
    return (
        f"[{quoted(commit.prev_hash)},{commit.seq!r},{quoted(commit.tx_id)},{quoted(commit.principal)},"
        f"{_optional(commit.run)},{commit.snapshot!r},{quoted(commit.isolation)},{commit.at!r},[{entries}],{effects},"
        f"{_ENCODER.encode(moves) if moves else '[]'}]"
    )


def chained(commit: Commit, texts: Sequence[str | None]) -> Commit:
    """Give ``commit``, which nobody else knows yet, its hash; ``texts`` are the JSON texts of its writes' values."""
    digests = [None if text is None else text_digest(text) for text in texts]
    # A copy with the hash would be right too, and take as long as a hash does.
    object.__setattr__(commit, "hash", commit_hash(commit, digests))
    return commit


def _entry(entry: Entry, digest: str | None) -> str:
    endorsement = entry.endorsement
    endorsed = "null" if endorsement is None else f"[{quoted(endorsement.by)},{quoted(endorsement.reason)}]"
    return (
        f"[{quoted(entry.topic)},{quoted(entry.key)},{entry.version!r},{quoted(entry.type)},{quoted(entry.writer)},"
        f"{_optional(entry.run)},{entry.committed_at!r},{_optional(digest)},{_quoted_label(entry.label)},"
        f"{refs_to_text(entry.derived_from)},{endorsed}]"
    )


def _optional(text: str | None) -> str:
    return "null" if text is None else quoted(text)


@lru_cache(maxsize=4096)
def _quoted_label(label: Label) -> str:
    return quoted(label_to_text(label))


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
