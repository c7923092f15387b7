"""What each tenant has had of the engines, so that one who asks much does not push the others back.

Source: virtual token counters, Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024), in seconds of a
replica instead of tokens: a tenant that comes back from idleness starts level with the least served that is active.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

_REMEMBERED: Final = 4096
"""Tenants without calls, the latest, of whom it is known what they have had."""


class TenantShares:
    """Seconds of service by tenant, of those that have calls in flight."""

    def __init__(self) -> None:
        self._served: dict[str, float] = {}
        self._open: Counter[str] = Counter()

    def begin(self, tenant: str) -> None:
        """Note a call of a tenant."""
        if not self._open[tenant]:
            least = min((self._served[name] for name, count in self._open.items() if count), default=0.0)
            self._served[tenant] = max(self._served.pop(tenant, 0.0), least)
        self._open[tenant] += 1

    def end(self, tenant: str) -> None:
        """Note a call's end."""
        self._open[tenant] -= 1
        if not self._open[tenant]:
            del self._open[tenant]
            if not self._open:
                self._served.clear()
            elif len(self._served) > _REMEMBERED + len(self._open):
                del self._served[next(name for name in self._served if name not in self._open)]

    def serve(self, tenant: str, seconds: float) -> None:
        """Count service."""
        self._served[tenant] = self._served.get(tenant, 0.0) + seconds

    def open(self, tenant: str) -> int:
        """Return how many calls of a tenant are in flight."""
        return self._open[tenant]

    def lead(self, tenant: str) -> float:
        """Return how many seconds more a tenant was served than the least served of those that are active."""
        if len(self._open) < 2:
            return 0.0
        return max(self._served.get(tenant, 0.0) - min(self._served[name] for name in self._open), 0.0)
