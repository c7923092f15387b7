from __future__ import annotations

import json

import numpy as np
import pytest

from agentsys.serving.constraints import ConstraintCompiler, ConstraintError
from agentsys.serving.requests import Constraint
from agentsys.serving.tokenizer import ModelTokenizer

VOCAB = 330
SCHEMA = {
    "type": "object",
    "properties": {"name": {"enum": ["ab", "cd"]}, "n": {"type": "integer"}},
    "required": ["name", "n"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir) -> ModelTokenizer:
    return ModelTokenizer(tiny_model_dir)


@pytest.fixture(scope="module")
def compiler(tokenizer: ModelTokenizer) -> ConstraintCompiler:
    return ConstraintCompiler(tokenizer, VOCAB, [0])


def walk(compiler: ConstraintCompiler, tokenizer: ModelTokenizer, constraint: Constraint, seed: int) -> str:
    """Take random allowed tokens until the grammar ends."""
    chance = np.random.default_rng(seed)
    matcher = compiler.compile(constraint)
    tokens: list[int] = []
    while not matcher.is_complete:
        tokens.append(int(chance.choice(np.flatnonzero(matcher.allowed()))))
        matcher.accept(tokens[-1])
    return tokenizer.decode(tokens)


@pytest.mark.parametrize("seed", range(5))
def test_any_path_through_a_schema_is_valid_json(compiler, tokenizer, seed) -> None:
    value = json.loads(walk(compiler, tokenizer, Constraint("json_schema", json.dumps(SCHEMA)), seed))
    assert value["name"] in ("ab", "cd")
    assert isinstance(value["n"], int)


@pytest.mark.parametrize("seed", range(5))
def test_lark_and_regex_hold(compiler, tokenizer, seed) -> None:
    lark = 'start: "SELECT " column\ncolumn: "a" | "b"'
    assert walk(compiler, tokenizer, Constraint("lark", lark), seed) in ("SELECT a", "SELECT b")
    assert walk(compiler, tokenizer, Constraint("regex", "[xy]{2}z"), seed) in ("xxz", "xyz", "yxz", "yyz")


def test_the_mask_is_as_wide_as_the_logits(compiler) -> None:
    allowed = compiler.compile(Constraint("regex", "[ab]")).allowed()
    assert allowed.shape == (VOCAB,)
    assert allowed.sum() == 2


def test_the_logits_may_be_narrower_than_the_tokenizer(tokenizer) -> None:
    matcher = ConstraintCompiler(tokenizer, 259, [0]).compile(Constraint("regex", "a|<5>"))
    assert matcher.allowed().shape == (259,)
    assert matcher.allowed().sum() == 2
    assert min(tokenizer.encode("<5>")) >= 259
    matcher = ConstraintCompiler(tokenizer, 259, [0]).compile(Constraint("regex", "ab<5>"))
    assert matcher.forced() == tokenizer.encode("ab")


def test_forced_text_is_known_beforehand_and_choices_are_not(compiler, tokenizer) -> None:
    matcher = compiler.compile(Constraint("json_schema", json.dumps(SCHEMA)))
    forced = matcher.forced()
    assert tokenizer.decode(forced).startswith('{"name":"')
    for token in forced:
        matcher.accept(token)
    assert matcher.forced() == []


def test_drafts_are_cut_where_the_grammar_ends_them(compiler, tokenizer) -> None:
    matcher = compiler.compile(Constraint("regex", "abc"))
    assert matcher.valid_prefix(tokenizer.encode("abx")) == 2


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("lark", "start: missing"),
        Constraint("regex", "(a"),
        Constraint("json_schema", "{"),
        Constraint("json_schema", '{"type": "nothing"}'),
        Constraint("json_schema", "3"),
        Constraint("json_schema", "[" * 5000),
        Constraint("lark", 'start: "\ud800"'),
        Constraint("regex", "\ud800"),
    ],
    ids=lambda constraint: f"{constraint.kind} {constraint.source[:20]!a}",
)
def test_bad_grammars_are_named(compiler, constraint) -> None:
    with pytest.raises(ConstraintError, match=constraint.kind):
        compiler.compile(constraint)


def test_a_token_outside_the_grammar_is_noticed(compiler, tokenizer) -> None:
    matcher = compiler.compile(Constraint("regex", "abc"))
    with pytest.raises(ConstraintError):
        matcher.accept(tokenizer.encode("z")[0])
