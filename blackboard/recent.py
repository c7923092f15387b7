"""The newest versions of recently written entries, kept in the writing process so that most reads need no database."""

import json
from typing import Final

from agentsys.blackboard.entries import Entry, Json, Key
from agentsys.blackboard.storage import PreparedCommit

CAPACITY: Final = 8_192
LARGEST_VALUE: Final = 4_096
"""Characters of JSON; larger values are read from the database, to bound the memory this takes."""


class RecentHeads:
    """Newest version by address, deletions included, of at most :data:`CAPACITY` entries.

    Only the one writer updates it, after a commit is durable and before the board's head moves there: so an entry
    found here with ``seq <= S`` for a published ``S`` is the version current at ``S``.
    """

    def __init__(self) -> None:
        self._entries: dict[Key, tuple[Entry, str | None]] = {}
        self.newest = 0
        """The last commit recorded; of later ones nothing is known here."""

    def get(self, address: Key) -> Entry | None:
        """Return the newest version if it is kept. Its value is the caller's own copy."""
        found = self._entries.get(address)
        if found is None:
            return None
        entry, text = found
        return entry if text is None else _with_value(entry, json.loads(text))

    def without_value(self, address: Key) -> Entry | None:
        """Return the newest version if it is kept; whoever was given its value may have changed that since."""
        found = self._entries.get(address)
        return None if found is None else found[0]

    def record(self, prepared: PreparedCommit) -> None:
        """Take in what ``prepared`` wrote, dropping what was written longest ago."""
        self.newest = prepared.commit.seq
        for entry, text in zip(prepared.commit.writes, prepared.texts, strict=True):
            self._entries.pop(entry.address, None)
            if text is None or len(text) <= LARGEST_VALUE:
                self._entries[entry.address] = (entry, text)
        while len(self._entries) > CAPACITY:
            del self._entries[next(iter(self._entries))]

    def clear(self) -> None:
        self._entries.clear()


def _with_value(entry: Entry, value: Json) -> Entry:
    # What dataclasses.replace does, in a third of the time: this is most of the cost of a read.
    return Entry(
        entry.topic,
        entry.key,
        entry.type,
        entry.version,
        value,
        entry.label,
        entry.seq,
        entry.writer,
        entry.run,
        entry.derived_from,
        entry.committed_at,
        entry.endorsement,
        entry.deleted,
    )
