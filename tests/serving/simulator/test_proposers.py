"""Proposers: what a model writes is read as a policy or replaced, and a search takes over what is better."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import pytest

from agentsys.cli.proposing import model_proposer
from agentsys.serving.constraints import ConstraintCompiler
from agentsys.serving.requests import Constraint, GenerateRequest
from agentsys.serving.simulator.cluster import HETEROGENEOUS
from agentsys.serving.simulator.contenders import Learned
from agentsys.serving.simulator.evolution import Bench, Evolution, evolve, first_policy
from agentsys.serving.simulator.expression_policy import COST_NAMES, FIRST_COST, FIRST_KEY, KEY_NAMES, ExpressionPolicy
from agentsys.serving.simulator.proposers import MEANINGS, ModelProposer, described, grammar
from agentsys.serving.simulator.workload import WorkloadSpec, generate
from agentsys.serving.tokenizer import ModelTokenizer

VOCAB = 330
LAST = ExpressionPolicy.of("0 - deadline", "0 - finish")
BEST = [(2.0, first_policy()), (3.5, LAST)]


class Script:
    """A scripted model: gives one answer to every request, and keeps what it was asked."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.requests: list[GenerateRequest] = []

    def __call__(self, requests: Sequence[GenerateRequest]) -> list[str]:
        self.requests += requests
        return [self.answer for _ in requests]


@pytest.mark.parametrize(
    "answer",
    [
        "key: deadline - own\ncost: finish + 2 * harm\n",
        "Here it is.\n\n**KEY:** `deadline - own`\n- Cost = finish + 2 * harm\nIt is better.",
    ],
)
def test_half_of_the_policies_are_the_models(answer: str) -> None:
    script = Script(answer)
    proposer = ModelProposer(script, frozenset())
    proposed = proposer.propose(BEST, 5, random.Random(1))
    assert len(proposed) == 5
    assert proposed[:3] == [ExpressionPolicy.of("deadline - own", "finish + 2 * harm")] * 3
    assert (proposer.asked, proposer.usable) == (3, 3)
    assert len({request.sampling.seed for request in script.requests}) == 3


@pytest.mark.parametrize(
    "answer",
    ["", "key: deadline", "key: __import__('os')\ncost: wait", f"key: {' + '.join(['own'] * 99)}\ncost: wait"],
)
def test_what_is_no_policy_is_replaced(answer: str) -> None:
    proposer = ModelProposer(Script(answer), frozenset())
    assert len(proposer.propose(BEST, 4, random.Random(1))) == 4
    assert (proposer.asked, proposer.usable) == (2, 0)


def test_a_model_sees_every_name_and_the_best_with_their_scores() -> None:
    assert set(MEANINGS) == {*KEY_NAMES, *COST_NAMES}
    asked = described(BEST)
    assert all(f"  {name}: {meaning}" in asked for name, meaning in MEANINGS.items())
    assert asked.index("score 2\n") < asked.index("score 3.5\n")


@pytest.mark.parametrize(("constraints", "kind"), [(frozenset({"lark", "regex"}), "lark"), (frozenset[str](), None)])
def test_a_grammar_is_asked_for_where_the_engine_knows_grammars(constraints: frozenset[str], kind: str | None) -> None:
    script = Script("")
    ModelProposer(script, constraints).propose(BEST, 1, random.Random(1))
    assert [request.constraint and request.constraint.kind for request in script.requests] == [kind]


def test_a_search_takes_over_what_a_model_wrote_if_it_is_better() -> None:
    crowd = [generate(WorkloadSpec(workflows=30, rate=20.0, seed=4))]
    bench = Bench(HETEROGENEOUS, Learned(), slots=2, scale=4.0)
    state = Evolution(1, population=[(bench.score(LAST, crowd), LAST)])
    script = ModelProposer(Script(f"key: {FIRST_KEY}\ncost: {FIRST_COST}\n"), frozenset())
    assert evolve(state, bench, crowd, generations=1, children=1, proposer=script) == first_policy()


def test_a_real_model_writes_policies_by_the_grammar(smollm2_dir: Path) -> None:
    with model_proposer(str(smollm2_dir)) as proposer:
        proposed = proposer.propose(BEST, 4, random.Random(2))
        again = proposer.propose(BEST, 4, random.Random(2))
    assert proposed == again
    assert proposer.asked == 4
    assert proposer.usable > 0


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        (f"key: {first_policy().key_expression}\ncost: {first_policy().cost_expression}\n", True),
        ("key: finish\ncost: wait\n", False),
        ("key: deadline ** 2\ncost: wait\n", False),
    ],
)
def test_the_grammar_holds_the_policy_in_use_and_nothing_else(text: str, whole: bool, tiny_model_dir: Path) -> None:
    tokenizer = ModelTokenizer(tiny_model_dir)
    tokens = tokenizer.encode(text)
    matcher = ConstraintCompiler(tokenizer, VOCAB, [0]).compile(Constraint("lark", grammar()))
    assert (matcher.valid_prefix(tokens) == len(tokens)) is whole
