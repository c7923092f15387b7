"""The list-append checker: from what clients appended and read to dependencies, and to faults that need no cycle.

Every element is appended once, so a list that was read tells the order of the writes before it. After Elle (VLDB 2020).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from agentsys.benchmarks.isolation.anomalies import Anomaly
from agentsys.benchmarks.isolation.cycles import Dependencies, find_cycles
from agentsys.benchmarks.isolation.histories import ListTransaction


@dataclass(frozen=True, slots=True)
class _Read:
    """What transaction ``reader`` found at ``key`` of other transactions' elements."""

    reader: int
    key: str
    seen: tuple[int, ...]


def check_lists(history: Sequence[ListTransaction]) -> list[Anomaly]:
    """Return everything about ``history`` that some isolation level forbids."""
    return _Checker(history).check()


class _Checker:
    def __init__(self, history: Sequence[ListTransaction]) -> None:
        self._history = history
        self._found: list[Anomaly] = []
        self._appends: dict[tuple[int, str], list[int]] = defaultdict(list)
        self._writers: dict[tuple[str, int], int] = {}
        self._reads: list[_Read] = []
        self._orders: dict[str, tuple[int, ...]] = {}

    def check(self) -> list[Anomaly]:
        self._collect_appends()
        for number, item in enumerate(self._history):
            if item.outcome == "ok":
                self._reads += self._external_reads(number)
        self._find_orders()
        for read in self._reads:
            self._check_read(read)
        self._check_losses()
        return self._found + find_cycles(self._dependencies(), self._describe)

    def _collect_appends(self) -> None:
        for number, item in enumerate(self._history):
            for op in item.operations:
                if op.kind != "append":
                    continue
                assert isinstance(op.value, int)
                assert (op.key, op.value) not in self._writers, "the workload appends no element twice"
                self._writers[op.key, op.value] = number
                self._appends[number, op.key].append(op.value)

    def _external_reads(self, number: int) -> Iterator[_Read]:
        """Yield what the transaction read of others, once a key; its own earlier appends must be where it put them."""
        own: dict[str, tuple[int, ...]] = defaultdict(tuple)
        seen: dict[str, tuple[int, ...]] = {}
        for op in self._history[number].operations:
            if op.kind == "append":
                assert isinstance(op.value, int)
                own[op.key] += (op.value,)
                continue
            assert isinstance(op.value, tuple)
            cut = len(op.value) - len(own[op.key])
            external, internal = op.value[: max(cut, 0)], op.value[max(cut, 0) :]
            if internal != own[op.key] or seen.get(op.key, external) != external:
                self._report("internal", f"{self._describe(number)} read {op.value} of {op.key}", number)
                continue
            if op.key not in seen:
                seen[op.key] = external
                yield _Read(number, op.key, external)

    def _find_orders(self) -> None:
        for read in self._reads:
            if len(read.seen) > len(self._orders.get(read.key, ())):
                self._orders[read.key] = read.seen

    def _check_read(self, read: _Read) -> None:
        order = self._orders.get(read.key, ())
        if len(set(read.seen)) != len(read.seen):
            self._report("duplicate-elements", f"{read.key} held {read.seen}", read.reader)
        if order[: len(read.seen)] != read.seen:
            self._report("incompatible-order", f"{read.key} was {read.seen} and {order}", read.reader)
        for place, value in enumerate(read.seen):
            writer = self._writers.get((read.key, value))
            if writer is None:
                self._report("garbage-read", f"nobody appended {value} to {read.key}", read.reader)
            elif self._history[writer].outcome == "fail":
                self._report("G1a", f"{read.key} held {value} of {self._describe(writer)}, which failed", read.reader)
            elif place == len(read.seen) - 1 and self._appends[writer, read.key][-1] != value:
                text = f"{read.key} ended with {value}, not the last of {self._describe(writer)}"
                self._report("G1b", text, read.reader)

    def _check_losses(self) -> None:
        """An acknowledged element must be in the lists that were read after its acknowledgement."""
        latest: dict[str, _Read] = {}
        for read in self._reads:
            if read.key not in latest or self._began(read) > self._began(latest[read.key]):
                latest[read.key] = read
        for (key, value), writer in self._writers.items():
            last = latest.get(key)
            done = self._history[writer].outcome == "ok" and last is not None
            if done and last is not None and self._history[writer].ended < self._began(last) and value not in last.seen:
                self._report("lost-append", f"{key} lacks {value} of {self._describe(writer)}", last.reader)

    def _dependencies(self) -> Dependencies:
        dependencies = Dependencies(len(self._history))
        for key, order in self._orders.items():
            writers = [self._writers[key, value] for value in order if (key, value) in self._writers]
            for before, after in pairwise(writers):
                dependencies.add("ww", before, after)
        for read in self._reads:
            self._add_read(dependencies, read)
        self._add_processes(dependencies)
        return dependencies

    def _add_read(self, dependencies: Dependencies, read: _Read) -> None:
        order = self._orders.get(read.key, ())
        if read.seen and (read.key, read.seen[-1]) in self._writers:
            dependencies.add("wr", self._writers[read.key, read.seen[-1]], read.reader)
        following = order[len(read.seen) : len(read.seen) + 1]
        if following and (read.key, following[0]) in self._writers:
            dependencies.add("rw", read.reader, self._writers[read.key, following[0]])

    def _add_processes(self, dependencies: Dependencies) -> None:
        last: dict[int, int] = {}
        for number in sorted(range(len(self._history)), key=lambda number: self._history[number].began):
            item = self._history[number]
            if item.outcome == "ok":
                if item.process in last:
                    dependencies.add("process", last[item.process], number)
                last[item.process] = number

    def _began(self, read: _Read) -> int:
        return self._history[read.reader].began

    def _describe(self, number: int) -> str:
        return f"T{number}(p{self._history[number].process})"

    def _report(self, kind: str, text: str, reader: int) -> None:
        self._found.append(Anomaly(kind, f"{text}, as {self._describe(reader)} saw"))
