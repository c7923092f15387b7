"""Grammar-constrained decoding: which tokens may come next, and which must.

Source of the grammar engine: llguidance (JSON schema, Lark and regular expressions over the model's own tokens).
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence

import llguidance
import numpy as np
import numpy.typing as npt

from agentsys.errors import ServingError
from agentsys.serving.requests import Constraint
from agentsys.serving.tokenizer import ModelTokenizer

_KEPT_GRAMMARS = 64
CONSTRAINT_KINDS = frozenset({"json_schema", "lark", "regex"})


class ConstraintError(ServingError):
    """A grammar is malformed, or too complex for its limits."""

    code = "AGS-0411"
    remedy = "Correct the grammar at the place named; llguidance's Lark dialect and JSON schema subset apply."


class ConstraintCompiler:
    """Compiles constraints for one model's vocabulary. Thread-safe."""

    def __init__(self, tokenizer: ModelTokenizer, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        """``vocab_size`` is the width of the model's logits, which may differ from the tokenizer's vocabulary."""
        self._vocab_size = vocab_size
        self._compiled = functools.lru_cache(_KEPT_GRAMMARS)(self._compile)
        width = max(vocab_size, tokenizer.backend.get_vocab_size(with_added_tokens=True))
        self._tokenizer = llguidance.LLTokenizer(
            str(tokenizer.path), n_vocab=width, eos_token=list(eos_token_ids) or None
        )

    def token_bytes(self, token: int) -> bytes:
        """Return a token's bytes; of a special token, its name."""
        return bytes(self._tokenizer.decode_bytes([token]))

    def compile(self, constraint: Constraint) -> TokenMatcher:
        """Return a matcher at the grammar's start; raises :class:`ConstraintError` naming the fault and its place."""
        # A copy takes a thousandth of the time and a tenth of the memory, and agents ask by the same grammar often.
        return TokenMatcher(self._compiled(constraint).deep_copy(), self._vocab_size)

    def _compile(self, constraint: Constraint) -> llguidance.LLMatcher:
        grammar = _grammar(constraint)
        fault = llguidance.LLMatcher.validate_grammar(grammar, self._tokenizer)
        if fault and not fault.startswith("WARNING"):
            raise ConstraintError(f"the {constraint.kind} constraint is invalid: {fault.strip()}.")
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise ConstraintError(f"the {constraint.kind} constraint is invalid: {matcher.get_error().strip()}.")
        return matcher


class TokenMatcher:
    """The state of one constrained answer."""

    def __init__(self, matcher: llguidance.LLMatcher, vocab_size: int) -> None:
        self._matcher = matcher
        self._vocab_size = vocab_size

    @property
    def is_complete(self) -> bool:
        """Whether the grammar is satisfied and nothing more may follow."""
        return bool(self._matcher.is_stopped())

    def allowed(self) -> npt.NDArray[np.bool_]:
        """Return a bool array ``[vocab]``: the tokens that may come next.

        Raises :class:`ConstraintError` when the parser gave up, for then it permits nothing.
        """
        mask = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        self._check()
        return np.unpackbits(mask, count=self._vocab_size, bitorder="little").astype(np.bool_)

    def accept(self, token: int) -> None:
        """Move past ``token``, which :meth:`allowed` permitted."""
        self._matcher.consume_token(token)
        self._check()

    def forced(self) -> list[int]:
        """Return the canonical tokens of the text that the grammar leaves no choice about; empty if it leaves one."""
        known = itertools.takewhile(lambda token: token < self._vocab_size, self._matcher.compute_ff_tokens())
        return list(known)

    def valid_prefix(self, tokens: Sequence[int]) -> int:
        """Return how many of ``tokens`` the grammar would take one after another."""
        return int(self._matcher.validate_tokens(list(tokens)))

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ConstraintError(f"the constraint's parser gave up: {self._matcher.get_error().strip()}.")


def _grammar(constraint: Constraint) -> str:
    try:
        if constraint.kind == "lark":
            return str(llguidance.LLMatcher.grammar_from_lark(constraint.source))
        if constraint.kind == "regex":
            return str(llguidance.LLMatcher.grammar_from_regex(constraint.source))
        schema = json.loads(constraint.source)
        # Small models left free to write white space may never write anything else.
        return str(llguidance.LLMatcher.grammar_from_json_schema(schema, {"whitespace_flexible": False}))
    except (ValueError, TypeError, RecursionError) as error:
        wanted = "JSON" if constraint.kind == "json_schema" else "text"
        raise ConstraintError(f"the {constraint.kind} constraint is not {wanted}: {error}.") from error
