"""Information-flow labels: who shaped a value, who may read it, how much an adversary can say through it.

A label is an element of a product lattice: influencers (union) × readers (intersection) × capacity (maximum) ×
endorsements (union). Lower means less influenced, more public, less capacity; data may flow only upwards.

Sources: FIDES (arXiv 2505.23643) for integrity × readers × type, CaMeL (arXiv 2503.18813) for per-value source and
reader sets, Denning (CACM 1976) for the lattice model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple

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


class EndorsedInfluence(NamedTuple):
    """The fact that ``endorser`` vouched for a value that ``influencer`` had shaped."""

    endorser: str
    influencer: str


@dataclass(frozen=True, slots=True)
class Label:
    """Label of one value. The default is the label of unlabelled input: (external, owner-only, free text).

    ``influencers``: principals that may have shaped the value (``user:ann``, ``file:a.csv``, ``external``).
    ``readers``: principals that may learn it.
    ``capacity``: bits an influencer can convey through the value (bool 1, enum log2 n, free text infinite).
    ``endorsements``: by whom the value was shaped only as far as an endorser let them; whoever uses it decides whose
    endorsement is enough.
    """

    influencers: frozenset[str] = frozenset({EXTERNAL})
    readers: Readers = Readers(frozenset({OWNER}))
    capacity: float = FREE_TEXT
    endorsements: frozenset[EndorsedInfluence] = frozenset()

    def __post_init__(self) -> None:
        if math.isnan(self.capacity) or self.capacity < 0:
            raise ValueError(f"capacity must be a number of bits >= 0, got {self.capacity!r}")
        if type(self.capacity) is not float:
            # Equal labels have one text, which the log's hashes cover.
            object.__setattr__(self, "capacity", float(self.capacity))

    @staticmethod
    def trusted(principal: str = OWNER, readers: Readers | None = None) -> Label:
        """Return the label of what ``principal`` wrote, readable by that principal unless said otherwise."""
        return _trusted(principal, readers)

    def join(self, *others: Label) -> Label:
        """Return the least label above this one and all ``others``: one of them, where that is it."""
        influencers, readers, capacity = self.influencers, self.readers, self.capacity
        endorsements = self.endorsements
        for other in others:
            if other is self:
                continue
            if not influencers:
                influencers = other.influencers
            elif not other.influencers <= influencers:
                influencers = influencers | other.influencers
            readers = readers.join(other.readers)
            capacity = max(capacity, other.capacity)
            if not other.endorsements <= endorsements:
                endorsements = endorsements | other.endorsements
        for label in (self, *others[:1]):
            same = influencers is label.influencers and readers is label.readers and capacity == label.capacity
            if same and endorsements == label.endorsements:
                return label
        return Label(influencers, readers, capacity, endorsements)

    def endorsed(self, by: str, bits: float, *, keeping: Iterable[str] = ()) -> Label:
        """Return the label of a value that ``by`` vouched for, which can carry ``bits``.

        All influencers but those in ``keeping`` count from now on as endorsed by it.
        """
        kept = self.influencers & frozenset(keeping)
        facts = {EndorsedInfluence(by, influencer) for influencer in self.influencers - kept}
        return Label(kept, self.readers, min(bits, self.capacity), self.endorsements | facts)

    @property
    def shaped_by(self) -> frozenset[str]:
        """Everybody who shaped the value, also those who did so only through an endorser."""
        return self.influencers | {fact.influencer for fact in self.endorsements}

    def flows_to(self, other: Label) -> bool:
        """Whether a value with this label may be stored or sent where ``other`` is expected (``self`` ⊑ ``other``)."""
        return (
            self.influencers <= other.influencers
            and self.readers.permits(other.readers)
            and self.capacity <= other.capacity
            and self.endorsements <= other.endorsements
        )

    def influenced_only_by(self, principals: Iterable[str], endorsers: Iterable[str] = ()) -> bool:
        """Whether every influencer is among ``principals``, or was let through by one of ``endorsers`` only.

        This is the integrity test of a consequential act.
        """
        if not self.influencers <= frozenset(principals):
            return False
        return not self.endorsements or {fact.endorser for fact in self.endorsements} <= frozenset(endorsers)

    def __str__(self) -> str:
        readers = "everyone" if self.readers.members is None else ", ".join(sorted(self.readers.members)) or "nobody"
        through = [f"{fact.influencer} through {fact.endorser}" for fact in sorted(self.endorsements)]
        shaped = ", ".join([*sorted(self.influencers), *through]) or "nobody"
        return f"influenced by {shaped} · readable by {readers}"

    def to_json(self) -> dict[str, Any]:
        """Return a canonical JSON object; ``readers: null`` is public, ``capacity: null`` is free text.

        ``endorsements``, pairs of endorser and influencer, are there only where there are any.
        """
        readers = self.readers.members
        document: dict[str, Any] = {
            "influencers": sorted(self.influencers),
            "readers": None if readers is None else sorted(readers),
            "capacity": None if math.isinf(self.capacity) else self.capacity,
        }
        if self.endorsements:
            document["endorsements"] = sorted(map(list, self.endorsements))
        return document

    @staticmethod
    def from_json(data: dict[str, Any]) -> Label:
        """Rebuild a label; raises ``ValueError`` naming the fault, never returns a lower label than was written."""
        if not isinstance(data, dict) or set(data) - {"endorsements"} != {"influencers", "readers", "capacity"}:
            shown = sorted(map(str, data)) if isinstance(data, dict) else type(data).__name__
            raise ValueError(f"a label has influencers, readers, capacity and maybe endorsements, got {shown}")
        readers, capacity = data["readers"], data["capacity"]
        if isinstance(capacity, bool) or not isinstance(capacity, int | float | None):
            raise ValueError(f"a label's capacity is a number of bits or null, got {capacity!r}")
        facts = data.get("endorsements", [])
        if not isinstance(facts, list) or any(not isinstance(fact, list) or len(fact) != 2 for fact in facts):
            raise ValueError(f"a label's endorsements are pairs of endorser and influencer, got {facts!r}")
        return Label(
            _names(data["influencers"]),
            PUBLIC if readers is None else Readers(_names(readers)),
            _bits(capacity),
            frozenset(EndorsedInfluence(*_pair(fact)) for fact in facts),
        )


def _bits(capacity: float | None) -> float:
    try:
        return FREE_TEXT if capacity is None else float(capacity)
    except OverflowError as error:
        raise ValueError("a label's capacity is a number of bits that a float can hold, or null") from error


def _names(data: object) -> frozenset[str]:
    if not isinstance(data, list) or not all(isinstance(name, str) for name in data):
        raise ValueError(f"principals are a list of names, got {data!r}")
    return frozenset(data)


def _pair(fact: list[Any]) -> tuple[str, str]:
    endorser, influencer = fact
    if not isinstance(endorser, str) or not isinstance(influencer, str):
        raise ValueError(f"an endorsement names an endorser and an influencer, got {fact!r}")
    return endorser, influencer


@lru_cache(maxsize=4096)
def _trusted(principal: str, readers: Readers | None) -> Label:
    return Label(frozenset({principal}), readers or Readers.of(principal))


BOTTOM: Final = Label(frozenset(), PUBLIC, 0.0)
"""Identity of the join: influenced by nobody, public, carries nothing."""


def join_all(labels: Iterable[Label]) -> Label:
    """Return the join of ``labels``; of none, :data:`BOTTOM`."""
    return BOTTOM.join(*labels)
