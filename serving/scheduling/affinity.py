"""How much of a prompt a replica already has in its prefix cache, guessed from where calls ran before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

_REMEMBERED: Final = 4096
_WEIGHT: Final = 0.2  # of the newest observation


class PrefixAffinity:
    """Who ran where, and what share of a prompt was cached then: by stage, and by whether the workflow was there."""

    def __init__(self) -> None:
        self._places: OrderedDict[tuple[str, Hashable], None] = OrderedDict()
        self._shares: dict[tuple[Hashable, bool], float] = {}

    def ran(self, replica: str, workflow: Hashable, stage: Hashable, prompt_tokens: int, cached_tokens: int) -> None:
        """Learn from a call that ended on a replica."""
        seen = (stage, self._was_there(replica, workflow))
        share = cached_tokens / max(prompt_tokens, 1)
        known = self._shares.get(seen, share)
        self._shares[seen] = known + _WEIGHT * (share - known)
        if len(self._shares) > _REMEMBERED:
            del self._shares[next(iter(self._shares))]
        self._places[replica, workflow] = None
        self._places.move_to_end((replica, workflow))
        if len(self._places) > _REMEMBERED:
            self._places.popitem(last=False)

    def share(self, replica: str, workflow: Hashable, stage: Hashable) -> float:
        """Return the share of the prompt that is expected to be cached there."""
        return self._shares.get((stage, self._was_there(replica, workflow)), 0.0)

    def _was_there(self, replica: str, workflow: Hashable) -> bool:
        return (replica, workflow) in self._places
