"""The newest versions of recently written entries, kept in the writing process so that most reads need no database."""

from collections.abc import Iterable
from typing import Final

from agentsys.blackboard.entries import Entry, Key, parse_canonical
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
        self._entries: dict[Key, tuple[Entry, str]] = {}
        self.newest = 0
        """The last commit recorded; of later ones nothing is known here."""

    def get(self, address: Key) -> Entry | None:
        """Return the newest version if it is kept. Its value is the caller's own copy."""
        found = self._entries.get(address)
        if found is None:
            return None
        entry, text = found
        # A value that cannot be changed needs no copy.
        return entry.holding(parse_canonical(text)) if isinstance(entry.value, (dict, list)) else entry

    def without_values(self, addresses: Iterable[Key]) -> dict[Key, Entry]:
        """Return the newest versions that are kept; whoever was given their values may have changed those since."""
        look = self._entries.get
        return {address: found[0] for address in addresses if (found := look(address)) is not None}

    def record(self, prepared: PreparedCommit) -> None:
        """Take in what ``prepared`` wrote, dropping what was written longest ago."""
        for entry, text in zip(prepared.commit.writes, prepared.texts, strict=True):
            address = entry.topic, entry.key
            self._entries.pop(address, None)
            if text is None or len(text) <= LARGEST_VALUE:
                self._entries[address] = (entry, text or "")
        while len(self._entries) > CAPACITY:
            del self._entries[next(iter(self._entries))]
        # Last: the board's head may have been learned of otherwise, and readers ask meanwhile.
        self.newest = prepared.commit.seq

    def clear(self) -> None:
        self._entries.clear()
