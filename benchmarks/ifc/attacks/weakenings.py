"""Faults to plant in the runtime, one for each case: a suite that no fault fails proves nothing.

Each replaces a small part of the runtime in this process by one that forgets what the original is there for.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias
from unittest.mock import patch

Plant: TypeAlias = Callable[[Callable[[Any, str, Any], None]], None]

WEAKENINGS: Final[dict[str, Plant]] = {}
"""By what the fault is: a function that is given ``replace(owner, name, value)`` and plants it."""


def weakening(fault: str) -> Callable[[Plant], Plant]:
    """Register a fault under the sentence that says what is wrong."""

    def register(plant: Plant) -> Plant:
        assert fault not in WEAKENINGS, fault
        WEAKENINGS[fault] = plant
        return plant

    return register


@contextmanager
def weakened(fault: str | None) -> Iterator[None]:
    """Run the runtime with a fault inside the block; ``None`` is the runtime as it is."""
    replaced: list[Any] = []

    def replace(owner: Any, name: str, value: Any) -> None:
        patched = patch.object(owner, name, value, create=True)
        patched.start()
        replaced.append(patched)

    try:
        if fault is not None:
            WEAKENINGS[fault](replace)
        yield
    finally:
        for patched in reversed(replaced):
            patched.stop()


def plain(owner: Any, name: str) -> Any:
    """Return an attribute as its class has it, to be called by what replaces it."""
    found = inspect.getattr_static(owner, name)
    return found.__func__ if isinstance(found, staticmethod) else found


def without_delivery(owner: Any, name: str) -> Any:
    """Return a method of a context that leaves the control label as it was before, and labels its result with it."""
    from agentsys.labelled import Labelled

    original = plain(owner, name)

    def relabelled(self: Any, result: Any, before: Any) -> Any:
        self._label = before
        return Labelled(result.value, before) if isinstance(result, Labelled) else result

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def later(self: Any, *given: Any, **named: Any) -> Any:
            before = self._label
            try:
                return relabelled(self, await original(self, *given, **named), before)
            finally:
                self._label = before

        return later

    @functools.wraps(original)
    def now(self: Any, *given: Any, **named: Any) -> Any:
        before = self._label
        try:
            return relabelled(self, original(self, *given, **named), before)
        finally:
            self._label = before

    return now


def changed(owner: Any, name: str, change: Callable[[Any], Any]) -> Any:
    """Return a function like the original whose result ``change`` falsifies."""
    original = plain(owner, name)
    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def later(*given: Any, **named: Any) -> Any:
            return change(await original(*given, **named))

        return later

    @functools.wraps(original)
    def now(*given: Any, **named: Any) -> Any:
        return change(original(*given, **named))

    return now
