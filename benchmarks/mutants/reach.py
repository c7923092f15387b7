"""Which test executes which statements of the modules under mutation, and in which order to try tests on a mutant.

A test that does not execute the statement in which a mutant is cannot notice it. Source: predictive and
coverage-based mutant execution, as in PIT (Coles et al., ISSTA 2016).
"""

from __future__ import annotations

import ast
import sys
import threading
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from agentsys.benchmarks.mutants.mutations import Mutant

Line = tuple[str, int]
"""File and number of a line."""


def lines_executed(body: Callable[[], Any], files: Mapping[str, str]) -> tuple[set[Line], Any]:
    """Run ``body``; return the lines of ``files`` (keys) that any thread executed meanwhile, and what it returned."""
    executed: set[Line] = set()

    def note_line(frame: types.FrameType, event: str, _: object) -> Any:
        executed.add((frame.f_code.co_filename, frame.f_lineno))
        return note_line

    def note_call(frame: types.FrameType, event: str, _: object) -> Any:
        return note_line if frame.f_code.co_filename in files else None

    before = sys.gettrace()
    threading.settrace(note_call)
    sys.settrace(note_call)
    try:
        returned = body()
    finally:
        sys.settrace(before)
        threading.settrace(before)
    return executed, returned


@cache
def statements(path: Path) -> list[range]:
    """Return the lines of each statement of a file, of a compound one those of its head."""
    return sorted(_statements(ast.parse(path.read_text(encoding="utf-8"))), key=len)


def _statements(tree: ast.AST) -> Iterator[range]:
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            first = node.pattern.lineno if isinstance(node, ast.match_case) else node.lineno
            inner = getattr(node, "body", None)
            last = inner[0].lineno - 1 if inner else getattr(node, "end_lineno", first)
            yield range(first, max(first, last) + 1)


def statement_at(path: Path, line: int) -> range:
    """Return the lines of the smallest statement that has ``line``."""
    return next((lines for lines in statements(path) if line in lines), range(line, line + 1))


@dataclass
class Order:
    """Which tests to try on a mutant: those that execute its statement, the likeliest for their cost first.

    A test that noticed other mutants of the function is likely to notice this one.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    reached: dict[Line, set[str]] = field(default_factory=lambda: defaultdict(set))
    noticed: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def ran(self, test: str, seconds: float, executed: set[Line]) -> None:
        self.seconds[test] = seconds
        for line in executed:
            self.reached[line].add(test)

    def was_noticed(self, mutant: Mutant, test: str) -> None:
        self.noticed[_function(mutant)][test] += 1

    def of(self, mutant: Mutant, path: Path) -> list[str]:
        lines = statement_at(path, mutant.line)
        tests = {test for line in lines for test in self.reached.get((str(path), line), ())}
        before = self.noticed.get(_function(mutant), Counter())
        return sorted(tests, key=lambda test: (-before[test] / (self.seconds[test] + 1e-3), self.seconds[test], test))


def _function(mutant: Mutant) -> str:
    return f"{mutant.module}:{mutant.function}"
