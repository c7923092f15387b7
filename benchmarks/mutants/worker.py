"""Tries mutants: ``python -m agentsys.benchmarks.mutants.worker SHARE OF TRIED FILE``; one line of JSON for each.

TRIED is a file of JSON with the module and number of all mutants; every OF-th of them is this worker's share.

A mutant of a function takes the place of that function's code in a fork of a process in which the tests are collected;
only tests that execute its statement are run, until one fails (:mod:`.reach` says in which order). A mutant of a
declaration is loaded in a fork of a process that has loaded everything but this project.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import gc
import importlib
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import tempfile
import time
import types
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import hypothesis
import pytest
from _pytest.runner import runtestprotocol

from agentsys.benchmarks.mutants.mutations import Mutant, mutated
from agentsys.benchmarks.mutants.reach import Line, Order, lines_executed
from agentsys.benchmarks.mutants.targets import ROOT, TESTS, all_mutants, path_of

SECONDS: Final = 120
"""What the tests of one mutant may take of a processor; one that takes more is noticed."""
PATIENCE: Final = 15
"""So many seconds, and so many times what it takes without a mutant, a test may last: one may wait for ever."""
NOTICED: Final = 1
ARGUMENTS: Final = [
    *(
        "-q",
        "--no-header",
        "-m",
        "not slow",
        "-k",
        "not caught and not of_a_run_through and not has_filled_the_memo",
        "-p",
        "no:cacheprovider",
        "-o",
        "timeout=0",
    ),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
]


Say = Callable[[str], None]
Report = Callable[[Mutant, str], None]


class Tried(NamedTuple):
    """How a fork ended (``survived``, ``noticed`` or ``took too long``), and what it said meanwhile."""

    outcome: str
    said: list[str]


def main() -> None:
    """Try one share of the mutants."""
    share, of, tried, file = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    os.nice(5)
    known = {(mutant.module, mutant.number): mutant for mutant in all_mutants()}
    mine = [known[module, number] for module, number in json.loads(tried.read_text(encoding="utf-8"))[share::of]]
    hypothesis.settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=30,
        phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    hypothesis.settings.load_profile("mutants")
    with file.open("w", encoding="utf-8") as out:

        def report(mutant: Mutant, outcome: str) -> None:
            print(json.dumps([mutant.module, mutant.number, outcome]), file=out, flush=True)

        declarations = [mutant for mutant in mine if not mutant.function]
        if declarations:
            _try_declarations(declarations, report)
        inside = [mutant for mutant in mine if mutant.function]
        status = pytest.main([*ARGUMENTS, *TESTS], plugins=[InPlace(inside, report)])
    sys.exit(int(status))


def _try_declarations(mutants: Sequence[Mutant], report: Report) -> None:
    for name in _in_fork(_say_what_is_loaded).said:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    if _in_fork(lambda say: _run_loaded_anew(None, TESTS)).outcome != "survived":
        raise SystemExit("the tests fail without any mutant")
    first: dict[str, Counter[str]] = defaultdict(Counter)
    for mutant in mutants:
        files = sorted(TESTS, key=lambda file: -first[mutant.module][file])
        tried = _in_fork(lambda say: _run_loaded_anew(mutant, files, say))  # noqa: B023
        if tried.outcome != "survived" and tried.said:
            first[mutant.module][tried.said[-1]] += 1
        report(mutant, tried.outcome)


class InPlace:
    """A plugin that runs the tests once as they are, and then for each mutant those that execute its statement."""

    def __init__(self, mutants: Sequence[Mutant], report: Report) -> None:
        self._mutants = mutants
        self._report = report
        self._order = Order()

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            start = time.perf_counter()
            lines, failed = _executed_by(item, following)
            if failed:
                pytest.exit(f"{item.nodeid} fails without any mutant", 3)
            self._order.ran(item.nodeid, time.perf_counter() - start, lines)
        # What is frozen is not copied for each fork, and not found by looking for it either.
        missing = {(mutant.module, mutant.function) for mutant in self._mutants} - set(_functions())
        if missing:
            pytest.exit(f"not loaded: {missing}", 3)
        gc.freeze()
        seconds = self._order.seconds
        again = _in_fork(
            lambda say: _run_in_place(None, sorted(items.values(), key=_seconds_of(seconds)), seconds, say)
        )
        if again.outcome != "survived":
            pytest.exit(f"{again.said[-1:]} fails in a fork without any mutant", 3)
        for mutant in self._mutants:
            chosen = [items[test] for test in self._order.of(mutant, path_of(mutant.module))]
            tried = _in_fork(lambda say: _run_in_place(mutant, chosen, seconds, say))  # noqa: B023
            if tried.outcome != "survived":
                if not tried.said:
                    pytest.exit(f"{mutant} cannot be put in its place", 3)
                self._order.was_noticed(mutant, tried.said[-1])
            self._report(mutant, tried.outcome)
        return True


def _seconds_of(seconds: Mapping[str, float]) -> Callable[[pytest.Item], float]:
    return lambda item: seconds[item.nodeid]


def _executed_by(item: pytest.Item, following: pytest.Item | None) -> tuple[set[Line], bool]:
    """Run a test; return the lines under mutation that it executed, and whether it failed."""
    files = {str(path_of(module)): module for module in {mutant.module for mutant in all_mutants()}}
    for cache in _caches():
        cache.cache_clear()
    lines, reports = lines_executed(lambda: runtestprotocol(item, log=False, nextitem=following), files)
    return lines, any(report.failed for report in reports)


def _run_in_place(mutant: Mutant | None, items: Sequence[pytest.Item], seconds: Mapping[str, float], say: Say) -> None:
    if mutant is not None:
        code = _code_of(mutated(path_of(mutant.module).read_text(encoding="utf-8"), mutant.number), mutant)
        for function in _functions()[mutant.module, mutant.function]:
            # A mutant without the only `super()` needs no cell for the class any more, but is handed one.
            function.__code__ = code.replace(co_freevars=function.__code__.co_freevars)
    for item in items:
        for cache in _caches():
            cache.cache_clear()
        say(item.nodeid)
        signal.alarm(PATIENCE + int(PATIENCE * seconds[item.nodeid]))
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=None)):
            os._exit(NOTICED)


@functools.cache
def _caches() -> list[Any]:
    """Return the caches of functions: what is remembered there was computed without the mutant."""
    wrapped = [thing for thing in gc.get_objects() if isinstance(thing, functools._lru_cache_wrapper)]
    return [cache for cache in wrapped if cache.__module__ in {mutant.module for mutant in all_mutants()}]


def _code_of(tree: ast.Module, mutant: Mutant) -> types.CodeType:
    """Return the code of the mutant's function, in the mutated module."""
    waiting = [compile(tree, str(path_of(mutant.module)), "exec")]
    while waiting:
        code = waiting.pop()
        if code.co_qualname == mutant.function:
            return code
        waiting += [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]
    raise LookupError(f"{mutant.function} is not in {mutant.module}")


@functools.cache
def _functions() -> dict[tuple[str, str], list[types.FunctionType]]:
    """Return the functions under mutation as they are loaded, whatever they were wrapped in, by module and name."""
    modules = {mutant.module for mutant in all_mutants()}
    found: dict[tuple[str, str], list[types.FunctionType]] = defaultdict(list)
    for thing in gc.get_objects():
        if type(thing) is types.FunctionType and thing.__module__ in modules:
            found[thing.__module__, thing.__qualname__].append(thing)
    return found


def _run_loaded_anew(mutant: Mutant | None, files: Sequence[str], say: Say = print) -> None:
    """Run the tests, a file at a time: the next is loaded only where the last noticed nothing."""
    if mutant is not None:
        sys.meta_path.insert(0, _Loader(mutant))
    for file in files:
        say(file)
        if pytest.main([*ARGUMENTS, "-x", file]) not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            os._exit(NOTICED)


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module with its mutant."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant
        self._path = path_of(mutant.module)

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != self._mutant.module:
            return None
        return importlib.util.spec_from_file_location(fullname, self._path, loader=self)

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        tree = mutated(self._path.read_text(encoding="utf-8"), self._mutant.number)
        exec(compile(tree, str(self._path), "exec"), module.__dict__)


def _in_fork(body: Callable[[Say], None]) -> Tried:
    """Run ``body`` in a fork; return how that ended, and what it said meanwhile."""
    sys.stdout.flush()
    with tempfile.TemporaryFile("a+", encoding="utf-8", buffering=1) as told:
        child = os.fork()
        if child == 0:
            _be_a_child(lambda: body(lambda text: print(text, file=told)))
        _, status = os.waitpid(child, 0)
        told.seek(0)
        said = told.read().splitlines()
    if os.WIFSIGNALED(status):
        return Tried("took too long", said)
    return Tried("survived" if os.WEXITSTATUS(status) == 0 else "noticed", said)


def _be_a_child(body: Callable[[], None]) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 5))
    signal.alarm(10 * SECONDS)
    try:
        body()
    except BaseException:
        os._exit(NOTICED)
    os._exit(0)


def _say_what_is_loaded(say: Say) -> None:
    """Load the tests, and name the modules that came with them and are not of this project."""
    before = set(sys.modules)
    pytest.main([*ARGUMENTS, "--collect-only", *TESTS])
    for name in [name for name in sys.modules if name not in before]:
        named = getattr(sys.modules[name], "__name__", "") == name
        if named and name.partition(".")[0] not in ("agentsys", "tests", "conftest", "__main__"):
            say(name)


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
