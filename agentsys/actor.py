"""Who acts in a run: the workflow's main function, a node of its graph, or one agent in one round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentsys.blackboard.entries import EntryVersionRef, Json
from agentsys.blackboard.labels import Label


@dataclass(frozen=True, slots=True)
class Actor:
    """An actor at the start of one attempt: its path in the run, its name, the label of what it starts from.

    ``snapshot`` is the commit up to which its first transaction sees the board; ``deadline`` is in unix seconds;
    ``rated`` is its rating on the agenda, ``None`` for one that needs no turn. ``changes`` lists, from the second
    attempt on, what other transactions changed under the one before. ``kept`` names the requests with which earlier
    attempts committed writes: such writes are not made again, and what is read after the request is as of the commit
    given with it. ``owner`` is whose exclusive turn the attempt has, if any. ``known`` are the versions of entries that
    it starts from without having read them.
    """

    path: str
    name: str
    label: Label
    snapshot: int
    deadline: float | None = None
    rated: float | None = None
    attempt: int = 1
    changes: tuple[Json, ...] = ()
    kept: Mapping[str, int] = field(default_factory=dict)
    owner: str | None = None
    known: tuple[EntryVersionRef, ...] = ()
