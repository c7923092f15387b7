"""Write ownership: of two writers that read the same head of a thread, the second to write is refused.

Whoever reads a checkpoint gets a *claim* with it: a name of its own, and the version of the head that it saw. LangGraph
hands the claim back with everything it writes on top of what it read. A write is admitted if the head is still at that
version, or was last moved under the same name. So a fork from an old checkpoint is admitted too, unless somebody else
wrote after it was read.

The reader of an empty thread gets no checkpoint and so no claim; it is remembered in the context in which it read,
which LangGraph's background tasks inherit.
"""

from __future__ import annotations

import uuid
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final

from langchain_core.runnables import RunnableConfig

from agentsys.blackboard.entries import Entry
from agentsys.errors import BoardError
from agentsys.langgraph.addresses import Place

CLAIM: Final = "__agentsys_claim"
"""Key of the claim among the configurable values; LangGraph keeps what begins so out of the metadata."""
RUNNING: Final = "__pregel_runtime"
"""Key of the configurable values that only a running graph sets."""
REMEMBERED: Final = 64
"""Empty threads remembered for one context."""


class StaleCheckpoint(BoardError):
    """Another writer moved the thread on after this one had read it; nothing of this write was stored."""

    code = "AGS-0240"
    remedy = "Read the thread again and repeat the call; `forks='allow'` lets both go on, as LangGraph's savers do."


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to write next: ``version`` is that of the head as it was read, 0 for none."""

    version: int
    owner: str = field(default_factory=lambda: uuid.uuid4().hex)

    def text(self, place: Place) -> str:
        return f"{self.version}:{self.owner}:{place.name}"


_empty: ContextVar[dict[str, Claim] | None] = ContextVar("agentsys_empty_threads", default=None)


def version_of(head: Entry | None) -> int:
    """Return the version of a head, 0 for none; one that its transaction is about to write has none yet: -1."""
    return 0 if head is None else head.version or -1


def newest(head: Entry | None) -> str | None:
    """Return the identifier of the newest checkpoint."""
    found: Any = {"checkpoint": None} if head is None else head.value
    checkpoint: str | None = found["checkpoint"]
    return checkpoint


def owner_of(head: Entry | None) -> str | None:
    found: Any = {"owner": None} if head is None else head.value
    owner: str | None = found["owner"]
    return owner


def head_value(checkpoint: str | None, owner: str | None) -> dict[str, Any]:
    """Return what a head holds: the newest checkpoint, and the name under which it was written, if any."""
    return {"checkpoint": checkpoint, "owner": owner}


def remember_read(place: Place, claim: Claim | None) -> None:
    """Keep, in this context, that ``place`` was read: as empty under ``claim``, or with a checkpoint."""
    known = dict(_empty.get() or {})
    known.pop(place.name, None)
    if claim is not None:
        known[place.name] = claim
    while len(known) > REMEMBERED:
        del known[next(iter(known))]
    _empty.set(known)


def claim_of(config: RunnableConfig, place: Place, parent: str | None) -> Claim | None:
    """Return the claim under which ``config`` writes; ``None`` for one who writes by hand without having read."""
    configurable = config["configurable"]
    version, _, rest = str(configurable.get(CLAIM) or "").partition(":")
    owner, _, name = rest.partition(":")
    if owner and name == place.name:
        return Claim(int(version), owner)
    running = RUNNING in configurable
    if running or parent is None:
        seen = (_empty.get() or {}).get(place.name)
        if seen is not None:
            return seen
    # A graph names no parent only where it found the thread empty.
    return Claim(0) if running and parent is None else None


def admit(head: Entry | None, claim: Claim | None, place: Place, parent: str | None) -> None:
    """Raise :class:`StaleCheckpoint` if who holds ``claim`` may not write on top of ``parent``."""
    if claim is not None:
        admitted = claim.version == version_of(head) or claim.owner == owner_of(head)
    else:
        admitted = head is None or parent is None or parent == newest(head)
    if not admitted:
        lineage = f"{place.thread!r} ({place.namespace})" if place.namespace else repr(place.thread)
        raise StaleCheckpoint(
            f"Thread {lineage} was at checkpoint {parent or 'none'} when this writer read it, and another has written "
            f"since: it is at {newest(head) or 'none'}."
        )
