"""Who waits for what: a commit wakes those whose predicate it may concern, and costs the others nothing."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from agentsys.blackboard.commits import Commit
from agentsys.blackboard.predicates import Predicate


class WakeUps:
    """The waiting subscriptions of one board in one process. Thread-safe."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._by_topic: dict[str, list[tuple[Predicate, threading.Event]]] = {}
        self._others: list[tuple[Predicate, threading.Event]] = []

    @contextmanager
    def waiting(self, predicate: Predicate) -> Iterator[threading.Event]:
        """Give an event that is set by every commit that writes or deletes what ``predicate`` covers."""
        waiter = predicate, threading.Event()
        with self._guard:
            topic = predicate.topic
            waiters = self._others if topic is None else self._by_topic.setdefault(topic, [])
            waiters.append(waiter)
        try:
            yield waiter[1]
        finally:
            with self._guard:
                waiters.remove(waiter)
                if topic is not None and not waiters and self._by_topic.get(topic) is waiters:
                    del self._by_topic[topic]

    def publish(self, commits: Sequence[Commit]) -> None:
        """Wake whom ``commits`` may concern."""
        with self._guard:
            if not (self._by_topic or self._others):
                return
            for commit in commits:
                for entry in commit.writes:
                    for predicate, event in (*self._by_topic.get(entry.topic, ()), *self._others):
                        if not event.is_set() and predicate.covers(entry):
                            event.set()

    def wake_all(self) -> None:
        """Wake everybody: the board closes."""
        with self._guard:
            for waiters in (*self._by_topic.values(), self._others):
                for _, event in waiters:
                    event.set()


class Polling:
    """The signal of a process that is not told of commits: it looks every ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def clear(self) -> None:
        """There is nothing to forget."""

    def wait(self, timeout: float | None = None) -> bool:
        time.sleep(self._seconds if timeout is None else min(self._seconds, timeout))
        return True
