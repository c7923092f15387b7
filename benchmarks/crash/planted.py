"""Faults that the crash benchmark must catch: a storage that acknowledges too early, effects that are repeated."""

from __future__ import annotations

from typing import Final

from agentsys.blackboard import effects, led_file
from agentsys.blackboard.batch_rows import BatchRows
from agentsys.blackboard.sqlite import SqliteStorage

EARLY: Final = "acknowledges before it stores"
REPEATS: Final = "repeats what was begun"
FAULTS: Final = (EARLY, REPEATS)


def plant(fault: str | None) -> None:
    """Change the board's own code in this process, which is going to be killed."""
    if fault == EARLY:
        vars(led_file)["SqliteStorage"] = EarlyStorage
    elif fault == REPEATS:
        effects.EffectClass.repeatable = property(lambda self: True)  # type: ignore[assignment]


class EarlyStorage(SqliteStorage):
    """Stores each group of commits only when the next one comes, although it has said that it did."""

    _late: BatchRows | None = None

    def _store(self, rows: BatchRows) -> None:
        late, self._late = self._late, rows
        if late is not None:
            super()._store(late)
