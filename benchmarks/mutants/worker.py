"""Tries mutants: ``python -m agentsys.benchmarks.mutants.worker SHARE OF TRIED FILE``; one line of JSON for each.

TRIED is a file of JSON with the module and number of all mutants; every OF-th of them is this worker's share.

A mutant of a function takes the place of that function's code in a fork of a process in which the tests are collected;
only tests that reach the function are run, until one fails. A mutant of a declaration is loaded in a fork of a process
that has loaded no part of the policy engine yet.
"""

from __future__ import annotations

import ast
import functools
import gc
import importlib.abc
import importlib.util
import json
import os
import resource
import signal
import sys
import threading
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import hypothesis
import pytest
from _pytest.runner import runtestprotocol

from agentsys.benchmarks.mutants.mutations import Mutant, mutated
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


def main() -> None:
    """Try one share of the mutants."""
    share, of, tried, file = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    os.nice(19)
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

        _load_foundations()
        declarations = [mutant for mutant in mine if not mutant.function]
        if declarations and _outcome(lambda: _run_loaded_anew(None)) != "survived":
            raise SystemExit("the tests fail without any mutant")
        for mutant in declarations:
            report(mutant, _outcome(lambda mutant=mutant: _run_loaded_anew(mutant)))  # type: ignore[misc]
        inside = [mutant for mutant in mine if mutant.function]
        status = pytest.main([*ARGUMENTS, *TESTS], plugins=[InPlace(inside, report)])
    sys.exit(int(status))


class InPlace:
    """A plugin that runs the tests once as they are, and then for each mutant those that reach it."""

    def __init__(self, mutants: Sequence[Mutant], report: Callable[[Mutant, str], None]) -> None:
        self._mutants = mutants
        self._report = report

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        reached: dict[str, list[tuple[float, pytest.Item]]] = {}
        for item, following in zip(session.items, [*session.items[1:], None], strict=True):
            start = time.perf_counter()
            functions, failed = _reached_by(item, following)
            if failed:
                pytest.exit(f"{item.nodeid} fails without any mutant", 3)
            for function in functions:
                reached.setdefault(function, []).append((time.perf_counter() - start, item))
        for mutant in self._mutants:
            items = sorted(reached.get(_key(mutant), ()), key=lambda pair: pair[0])
            self._report(mutant, _outcome(lambda mutant=mutant, items=items: _run_in_place(mutant, items)))  # type: ignore[misc]
        return True


def _reached_by(item: pytest.Item, following: pytest.Item | None) -> tuple[set[str], bool]:
    """Run a test; return the functions under mutation that it called, and whether it failed."""
    names = {str(path_of(module)): module for module in {mutant.module for mutant in all_mutants()}}
    called: set[str] = set()
    for cache in _caches():
        cache.cache_clear()

    def note(frame: types.FrameType, event: str, _: object) -> None:
        module = names.get(frame.f_code.co_filename)
        if module is not None and event == "call":
            called.add(f"{module}:{frame.f_code.co_qualname.partition('.<locals>')[0]}")

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        reports = runtestprotocol(item, log=False, nextitem=following)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return called, any(report.failed for report in reports)


def _run_in_place(mutant: Mutant, items: Sequence[tuple[float, pytest.Item]]) -> None:
    code = _code_of(mutated(path_of(mutant.module).read_text(encoding="utf-8"), mutant.number), mutant)
    for function in _live(mutant):
        function.__code__ = code
    for seconds, item in items:
        for cache in _caches():
            cache.cache_clear()
        signal.alarm(PATIENCE + int(PATIENCE * seconds))
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


def _live(mutant: Mutant) -> list[types.FunctionType]:
    """Return the function as it is loaded, whatever it was wrapped in."""
    found = [
        thing
        for thing in gc.get_objects()
        if type(thing) is types.FunctionType
        and thing.__module__ == mutant.module
        and thing.__qualname__ == mutant.function
    ]
    if not found:
        raise LookupError(f"{mutant.function} of {mutant.module} is not loaded")
    return found


def _run_loaded_anew(mutant: Mutant | None) -> None:
    if mutant is not None:
        sys.meta_path.insert(0, _Loader(mutant))
    if pytest.main([*ARGUMENTS, "-x", *TESTS]) != pytest.ExitCode.OK:
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


def _outcome(body: Callable[[], None]) -> str:
    """Run ``body`` in a fork, and say how that ended."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _be_a_child(body)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return "took too long"
    return "survived" if os.WEXITSTATUS(status) == 0 else "noticed"


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


def _load_foundations() -> None:
    """Load what takes long and is not under mutation, once for all forks."""
    import _pytest.assertion.rewrite  # noqa: F401
    import langgraph.checkpoint.base  # noqa: F401
    import pydantic  # noqa: F401
    import sqlalchemy.dialects.sqlite  # noqa: F401
    import sqlmodel  # noqa: F401


def _key(mutant: Mutant) -> str:
    return f"{mutant.module}:{mutant.function}"


if __name__ == "__main__":
    os.chdir(ROOT)
    main()
