"""How a pull tells its caller how far it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class PullProgress:
    """``done`` and ``total`` are bytes while downloading and steps otherwise; ``total`` is None when unknown."""

    stage: Literal["resolve", "download", "convert", "ready"]
    done: int = 0
    total: int | None = None


ProgressListener = Callable[[PullProgress], None]


def ignore_progress(_: PullProgress) -> None:
    """Listen to nothing: the default listener."""
