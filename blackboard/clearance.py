"""Clearance: a transaction for an audience sees, and is validated against, only what all of that audience may read.

Else its aborts would tell the audience of what labels keep from it. Not hidden are the board's one sequence, the names
of effects, how long a commit takes, and addresses at which both sides write (a merge does not fit every kind of value).
"""

from dataclasses import replace

from agentsys.blackboard.commits import Commit, CommitRequest
from agentsys.blackboard.entries import Entry
from agentsys.blackboard.labels import Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.sources import View


def readable(entry: Entry | None, audience: Readers | None) -> Entry | None:
    """Return ``entry`` if it exists (is no deletion) and the whole ``audience`` may read it; ``None`` may read all."""
    if entry is None or entry.deleted or not (audience is None or entry.label.readers.permits(audience)):
        return None
    return entry


def told_of(commit: Commit, request: CommitRequest) -> Commit:
    """Return ``commit`` for whoever made ``request``: without what merges came to where its audience may not read that.

    They change what is there, seen or not; the values are ``None``.
    """
    merged = {(write.topic, write.key) for write in request.writes if write.merges and request.audience is not None}
    if not merged:
        return commit
    writes = [
        entry.holding(None) if entry.address in merged and readable(entry, request.audience) is None else entry
        for entry in commit.writes
    ]
    return replace(commit, writes=tuple(writes))


class ClearedView:
    """What ``audience`` may read of ``view``. Anything else looks as if it were not there."""

    def __init__(self, view: View, audience: Readers) -> None:
        self._view = view
        self._audience = audience

    def version_at(self, topic: str, key: str, at: int) -> Entry | None:
        return readable(self._view.version_at(topic, key, at), self._audience)

    def query_at(self, predicate: Predicate, at: int) -> list[Entry]:
        found = self._view.query_at(predicate, at)
        return [entry for entry in found if readable(entry, self._audience) is not None]
