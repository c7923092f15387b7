"""Information-flow labels: who shaped a value, who may read it, how much an adversary can say through it.

A label is an element of a product lattice: influencers (union) × readers (intersection) × capacity (maximum).
Lower means less influenced, more public, less capacity; data may flow only upwards.

Sources: FIDES (arXiv 2505.23643) for integrity × readers × type, CaMeL (arXiv 2503.18813) for per-value source and
reader sets, Denning (CACM 1976) for the lattice model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

EXTERNAL: Final = "external"
"""Influencer of everything whose origin nobody declared."""

OWNER: Final = "user:owner"
"""The principal a local runtime belongs to."""

FREE_TEXT: Final = math.inf
"""Capacity of unbounded text, in bits."""


@dataclass(frozen=True, slots=True)
class Readers:
    """The principals that may read a value; ``None`` means everyone (``PUBLIC``, the identity of the join)."""

    members: frozenset[str] | None

    @staticmethod
    def of(*members: str) -> Readers:
        return Readers(frozenset(members))

    def join(self, other: Readers) -> Readers:
        """Return the readers allowed by both (set intersection, with ``PUBLIC`` as identity)."""
        if self.members is None or other is self:
            return other
        if other.members is None or self.members <= other.members:
            return self
        return Readers(self.members & other.members)

    def permits(self, audience: Readers) -> bool:
        """Whether everyone in ``audience`` may read: the audience is a subset of these readers."""
        if self.members is None:
            return True
        return audience.members is not None and audience.members <= self.members


PUBLIC: Final = Readers(None)
NOBODY: Final = Readers(frozenset())


@dataclass(frozen=True, slots=True)
class Label:
    """Label of one value. The default is the label of unlabelled input: (external, owner-only, free text).

    ``influencers``: principals that may have shaped the value (``user:ann``, ``file:a.csv``, ``external``).
    ``readers``: principals that may learn it.
    ``capacity``: bits an influencer can convey through the value (bool 1, enum log2 n, free text infinite).
    """

    influencers: frozenset[str] = frozenset({EXTERNAL})
    readers: Readers = Readers(frozenset({OWNER}))
    capacity: float = FREE_TEXT

    def __post_init__(self) -> None:
        if math.isnan(self.capacity) or self.capacity < 0:
            raise ValueError(f"capacity must be a number of bits >= 0, got {self.capacity!r}")

    @staticmethod
    def trusted(principal: str = OWNER, readers: Readers | None = None) -> Label:
        """Return the label of what ``principal`` wrote, readable by that principal unless said otherwise."""
        return _trusted(principal, readers)

    def join(self, *others: Label) -> Label:
        """Return the least label above this one and all ``others``: one of them, where that is it."""
        influencers, readers, capacity = self.influencers, self.readers, self.capacity
        for other in others:
            if not influencers:
                influencers = other.influencers
            elif not other.influencers <= influencers:
                influencers = influencers | other.influencers
            readers = readers.join(other.readers)
            capacity = max(capacity, other.capacity)
        for label in (self, *others[:1]):
            if influencers is label.influencers and readers is label.readers and capacity == label.capacity:
                return label
        return Label(influencers, readers, capacity)

    def flows_to(self, other: Label) -> bool:
        """Whether a value with this label may be stored or sent where ``other`` is expected (``self`` ⊑ ``other``)."""
        return (
            self.influencers <= other.influencers
            and self.readers.permits(other.readers)
            and self.capacity <= other.capacity
        )

    def influenced_only_by(self, principals: Iterable[str]) -> bool:
        """Whether every influencer is among ``principals`` (the integrity test of a consequential act)."""
        return self.influencers <= frozenset(principals)

    def __str__(self) -> str:
        readers = "everyone" if self.readers.members is None else ", ".join(sorted(self.readers.members)) or "nobody"
        return f"influenced by {', '.join(sorted(self.influencers)) or 'nobody'} · readable by {readers}"

    def to_json(self) -> dict[str, Any]:
        """Return a canonical JSON object; ``readers: null`` is public, ``capacity: null`` is free text."""
        readers = self.readers.members
        return {
            "influencers": sorted(self.influencers),
            "readers": None if readers is None else sorted(readers),
            "capacity": None if math.isinf(self.capacity) else self.capacity,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Label:
        """Rebuild a label; raises ``ValueError`` naming the fault, never returns a lower label than was written."""
        if set(data) != {"influencers", "readers", "capacity"}:
            raise ValueError(f"a label has exactly influencers, readers and capacity, got {sorted(data)}")
        readers = data["readers"]
        capacity = data["capacity"]
        return Label(
            frozenset(data["influencers"]),
            PUBLIC if readers is None else Readers(frozenset(readers)),
            FREE_TEXT if capacity is None else float(capacity),
        )


@lru_cache(maxsize=4096)
def _trusted(principal: str, readers: Readers | None) -> Label:
    return Label(frozenset({principal}), readers or Readers.of(principal))


BOTTOM: Final = Label(frozenset(), PUBLIC, 0.0)
"""Identity of the join: influenced by nobody, public, carries nothing."""


def join_all(labels: Iterable[Label]) -> Label:
    """Return the join of ``labels``; of none, :data:`BOTTOM`."""
    return BOTTOM.join(*labels)
