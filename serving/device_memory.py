"""The memory that models share: this machine's and its GPU's, and how much of each they may take."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Final

HOST: Final = "cpu"
GPU: Final = "cuda"
_SHARE_OF_FREE: Final = 0.9
"""Steps need memory for what they compute beside weights and caches, and it is not known beforehand how much."""


def free_memory(device: str) -> int | None:
    """Return the bytes that are free on a GPU; ``None`` of any other device, and of one that is not there."""
    import torch

    return int(torch.cuda.mem_get_info()[0]) if device == GPU and torch.cuda.is_available() else None


def release_cached() -> None:
    """Give back to the GPU what closed engines left in torch's own store, so that other processes can have it."""
    torch = sys.modules.get("torch")  # importing it takes seconds, and where nobody did nothing is in the store
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def memory_claims(source: object) -> Mapping[str, int]:
    """Return the bytes that loading a model will take, by device, as far as its source says so beforehand.

    What this process grows by is not among them. May block, and raise what loading the model would.
    """
    tell = getattr(source, "memory_claims", None)
    claims: Mapping[str, int] = tell() if callable(tell) else {}
    return claims


class DeviceBudgets:
    """How many bytes models may take of each device together.

    A GPU that no budget is given for has nine tenths of what is free on it when a model is first to be loaded there.
    This machine's memory is without bound unless one is given.
    """

    def __init__(
        self, given: Mapping[str, int | None] | None = None, free: Callable[[str], int | None] = free_memory
    ) -> None:
        """``free`` tells the bytes that are free on a device."""
        self._known = {device: budget for device, budget in (given or {}).items() if budget is not None}
        self._free = free
        self._asked: set[str] = {HOST, *self._known}

    @property
    def bounded(self) -> bool:
        """Whether any device has a bound."""
        return bool(self._known)

    def of(self, devices: Iterable[str]) -> dict[str, int]:
        """Return the budgets of these devices and of all asked for before, where there is a bound."""
        for device in set(devices) - self._asked:
            self._asked.add(device)
            free = self._free(device)
            if free is not None:
                self._known[device] = int(_SHARE_OF_FREE * free)
        return dict(self._known)
