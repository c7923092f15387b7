"""The attack suite: a part of it in each test run, and that it can fail."""

from __future__ import annotations

import pytest

from agentsys.benchmarks import attacks
from agentsys.benchmarks.attacks import chosen_cases
from agentsys.benchmarks.harness import Options
from agentsys.benchmarks.ifc.attacks import suite
from agentsys.benchmarks.ifc.attacks.case import Case
from agentsys.benchmarks.ifc.attacks.gullible import ENCODINGS, halves, instructions, order
from agentsys.benchmarks.ifc.attacks.suite import all_cases, try_case, wins
from agentsys.benchmarks.ifc.attacks.weakenings import WEAKENINGS, weakened
from agentsys.errors import ConfigurationError
from agentsys.tool_calling import ToolCalling


@pytest.mark.parametrize("case", chosen_cases(quick=True), ids=lambda case: case.title)
def test_an_attack_loses_and_wins_where_its_fault_is_planted(case: Case) -> None:
    tried = try_case(case)
    assert not tried.won
    assert tried.won_weakened


def test_the_suite_is_as_large_as_promised() -> None:
    assert len(all_cases()) >= attacks.LEAST
    assert {case.under for case in all_cases()} == set(WEAKENINGS), "every fault is there for a case"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_model_reads_every_encoding(encoding: str) -> None:
    told = order(call="pay", arguments={"to": "eve"})
    assert instructions(ENCODINGS[encoding](told)) == [{"call": "pay", "arguments": {"to": "eve"}}]


def test_half_an_order_is_none() -> None:
    first, second = halves(order(call="pay", arguments={"to": "eve"}))
    assert instructions(first) == instructions(second) == []
    assert len(instructions(f"{first} and {second}")) == 1


def test_a_fault_is_gone_after_its_block() -> None:
    before = ToolCalling.call
    with weakened("a call's result delivers nothing"):
        assert ToolCalling.call is not before
    assert ToolCalling.call is before


def test_a_case_that_wins_fails_the_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    async def play(stage: object) -> None:
        pass

    won = Case("always", "planted", "P1", "nothing is charged", play, lambda stage: True)
    lost = Case("never", "planted", "P1", "nothing is charged", play, lambda stage: False)
    monkeypatch.setattr(attacks, "all_cases", lambda: (won, lost))
    assert wins(won, None) and not wins(lost, None)
    result = attacks.main(Options(arguments={"family": "planted"}))
    assert [bar.met for bar in result.bars] == [True, False, False]
    assert result.notes == ["WON: planted: always", "not won under 'nothing is charged': planted: never"]


def test_cases_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "FAMILIES", (suite.FAMILIES[0], suite.FAMILIES[0]))
    with pytest.raises(ValueError, match="named twice"):
        all_cases.__wrapped__()


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no family"):
        chosen_cases(family="nobody's")
