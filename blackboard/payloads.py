"""Payloads: large values, each stored once for all entries of one compartment that hold it.

A compartment is who may have shaped a value and who may read it. Equal values of different compartments are stored
apart: else whoever watches how much is stored, or how long a commit takes, would learn what others hold.
"""

import hashlib
from functools import lru_cache
from typing import Final

from agentsys.blackboard.entries import Json, canonical_json
from agentsys.blackboard.labels import Label

LARGE: Final = 4_096
"""Characters of JSON from which on a value is stored apart."""


ERASED: Final = "erased"
"""Compartment of values that were erased: the name still tells their digest, which the log's hashes cover."""


class _Erased(dict[str, Json]):
    """What is read in the place of an erased value; known by its kind, as anybody may write what looks like it."""


def erased_id(digest: str) -> str:
    """Return what stands in the place of a value's name once it was erased."""
    return f"{ERASED}:{digest}"


def erased_value(payload: str) -> Json:
    """Return what is read in the place of an erased value, or ``None`` if ``payload`` names none."""
    compartment, _, digest = payload.partition(":")
    return _Erased({"$erased": digest}) if compartment == ERASED else None


def is_erased(value: Json) -> bool:
    """Whether ``value``, as it was read, stands in the place of one that was erased."""
    return isinstance(value, _Erased)


def payload_id(label: Label, text: str) -> str:
    """Return the name of a value under ``label``: its compartment and the digest of its JSON text."""
    return f"{_compartment(label)}:{text_digest(text)}"


def text_digest(text: str) -> str:
    """Return the digest under which the log's hashes know a value."""
    return hashlib.sha256(text.encode()).hexdigest()


def stored_digest(text: str | None, payload: str | None) -> str | None:
    """Return the digest of a stored value, whose text is not needed if it is kept apart; ``None`` of a deletion."""
    if payload is not None:
        return payload.rpartition(":")[2]
    return None if text is None else text_digest(text)


@lru_cache(maxsize=4096)
def _compartment(label: Label) -> str:
    readers = label.readers.members
    who = [sorted(label.shaped_by), None if readers is None else sorted(readers)]
    return hashlib.sha256(canonical_json(who).encode()).hexdigest()[:32]
