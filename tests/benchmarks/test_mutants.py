"""Mutants are one small fault each; what a fork notices, and what it does not, is told apart."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from agentsys.benchmarks.mutants.mutations import mutants_of, mutated
from agentsys.benchmarks.mutants.reach import Order, lines_executed
from agentsys.benchmarks.mutants.targets import all_mutants, reasons
from agentsys.benchmarks.mutants.worker import Say, Tried, _in_fork

SOURCE = '''
"""A module."""
LIMIT: int = 5

def allowed(name: str, most: int = 3) -> bool:
    """Docstring."""
    if name in KNOWN and not name.startswith("x"):
        return label.join(other, by=name) <= LIMIT
    raise ValueError(f"no {name}")
'''


def test_every_place_gets_its_faults_and_texts_for_people_none() -> None:
    mutants = mutants_of("m", SOURCE)
    changes = {(mutant.function, mutant.before, mutant.after) for mutant in mutants}
    assert {
        ("", "5", "6"),
        ("", "3", "4"),
        ("allowed", "name in KNOWN", "name not in KNOWN"),
        ("allowed", "not name.startswith('x')", "name.startswith('x')"),
        ("allowed", "'x'", "'x~'"),
        ("allowed", "label.join(other, by=name)", "label"),
        ("allowed", "by=name", "nothing"),
        ("allowed", "label.join(other, by=name) <= LIMIT", "label.join(other, by=name) < LIMIT"),
        ("allowed", "return label.join(other, by=name) <= LIMIT", "return None"),
        ("allowed", "raise ValueError(f'no {name}')", "pass"),
    } <= changes
    assert not any("ocstring" in mutant.before or "A module" in mutant.before for mutant in mutants)
    assert [mutant.number for mutant in mutants] == list(range(len(mutants)))


def test_a_mutant_differs_from_the_original_in_one_place() -> None:
    original = ast.unparse(ast.parse(SOURCE))
    texts = [ast.unparse(mutated(SOURCE, mutant.number)) for mutant in mutants_of("m", SOURCE)]
    assert original not in texts
    assert mutants_of("m", SOURCE, frozenset({"other"})) == []


def test_a_fork_tells_how_it_ended() -> None:
    def fails(say: Say) -> None:
        say("began")
        raise AssertionError

    assert _in_fork(fails) == Tried("noticed", ["began"])
    assert _in_fork(lambda say: None) == Tried("survived", [])


def test_every_mutant_that_is_listed_as_no_fault_exists_and_has_a_reason() -> None:
    found = reasons(all_mutants())
    assert found and all(reason for reason in found.values())
    assert len({(mutant.module, mutant.before, mutant.after) for mutant in found}) == 11


REACHED = """
def chosen(n):
    if n > 2:
        return (
            n
            + 1
        )
    return 0
"""


def test_a_mutant_is_tried_on_the_tests_that_execute_its_statement_the_likeliest_first(tmp_path: Path) -> None:
    file = tmp_path / "reached.py"
    file.write_text(REACHED)
    space: dict[str, Any] = {}
    exec(compile(REACHED, str(file), "exec"), space)
    order = Order()
    for test, argument, seconds in [("slow", 3, 2.0), ("quick", 4, 1.0), ("other", 1, 0.1)]:
        lines, returned = lines_executed(lambda argument=argument: space["chosen"](argument), {str(file): "m"})
        assert returned == (argument + 1 if argument > 2 else 0)
        order.ran(test, seconds, lines)
    inner = next(mutant for mutant in mutants_of("m", REACHED) if mutant.before == "1")
    assert inner.line == 6 and order.of(inner, file) == ["quick", "slow"]
    order.was_noticed(inner, "slow")
    assert order.of(inner, file) == ["slow", "quick"]
    first = next(mutant for mutant in mutants_of("m", REACHED) if mutant.before == "n > 2")
    assert set(order.of(first, file)) == {"slow", "quick", "other"}
