"""Who writes the policies that a search tries: seeded chance, or a model that sees the best so far and their scores."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

from agentsys.serving.requests import Constraint, GenerateRequest, Message, SamplingParams
from agentsys.serving.simulator.expression_policy import COST_NAMES, KEY_NAMES, ExpressionPolicy
from agentsys.serving.simulator.expressions import MOST_NODES, ExpressionError, mutate

MEANINGS: Final[Mapping[str, str]] = {
    "now": "the time",
    "deadline": "when the call's workflow is due",
    "arrived": "when the call came",
    "workflow_arrived": "when its workflow came",
    "path": "what remains of the workflow's critical path, this call included",
    "work": "what remains of the workflow's work, this call included",
    "own": "this call alone on the fastest idle replica",
    "attained": "work done for the workflow so far",
    "lead": "what the call's tenant was served more than the least served one",
    "demoted": "1 if the workflow was given up as hopeless, else 0",
    "prompt": "tokens of the prompt",
    "tokens": "expected tokens of the answer",
    "wait": "until a slot of the replica is free",
    "backlog": "while more urgent prompts are computed there",
    "prefill": "to compute the prompt there",
    "decode": "to write the answer there",
    "finish": "wait + backlog + prefill + decode",
    "harm": "delay given to those there that are more urgent, all together",
    "delay": "delay given to those there that are less urgent, all together",
    "batch": "calls that run there",
    "slots": "calls that can run there at once",
    "part": "this call's share of the time that its workflow has left",
    "slack": "time until the deadline, less path",
}
"""What each name in an expression stands for; times and durations are in seconds."""

_TOKENS: Final = 400
_TEMPERATURE: Final = 0.9
_LINE: Final = re.compile(r"^\W*(key|cost)[ \t*`]*[:=][ \t*`]*(.+?)[ \t*`]*$", re.MULTILINE | re.IGNORECASE)
_TASK: Final = f"""\
You improve the scheduler of servers that answer calls to language models. Calls belong to workflows with deadlines.
Two expressions decide. KEY orders the calls that wait: the smallest is served first. COST chooses a call's replica: the
smallest is taken. An expression has at most {MOST_NODES} parts: numbers, names, + - * /, min(a, b) and max(a, b).
A policy's score is how far deadlines must be stretched until 95 % of the workflows are on time: smaller is better."""

Scored = tuple[float, ExpressionPolicy]


class Proposer(Protocol):
    """Writes policies to try. The same ``chance`` is to give the same ones, as far as the proposer has it in hand."""

    def propose(self, best: Sequence[Scored], count: int, chance: random.Random) -> list[ExpressionPolicy]:
        """Return ``count`` policies, having seen the ``best`` so far with their scores, the best first."""
        ...


class Mutator:
    """Changes a part of the key, of the cost, or of both, of one of the best."""

    def propose(self, best: Sequence[Scored], count: int, chance: random.Random) -> list[ExpressionPolicy]:
        return [self._changed(chance.choice(best)[1], chance) for _ in range(count)]

    @staticmethod
    def _changed(parent: ExpressionPolicy, chance: random.Random) -> ExpressionPolicy:
        key, cost = parent.key_expression, parent.cost_expression
        which = chance.random()
        if which < 0.6:
            key = mutate(key, KEY_NAMES, chance)
        if which > 0.4:
            cost = mutate(cost, COST_NAMES, chance)
        return ExpressionPolicy(key, cost)


class ModelProposer:
    """Has a model write half of the policies, by a grammar where its engine knows grammars; chance writes the others.

    What the model writes that is no policy, chance replaces. Source of the idea: "Barbarians at the gate"
    (arXiv 2510.06189).
    """

    def __init__(self, ask: Callable[[Sequence[GenerateRequest]], Sequence[str]], constraints: frozenset[str]) -> None:
        """``ask`` returns the answers to requests, ``constraints`` are the kinds that the model's engine knows."""
        self.asked = 0
        self.usable = 0
        self._ask = ask
        self._constraint = Constraint("lark", grammar()) if "lark" in constraints else None
        self._mutator = Mutator()

    def propose(self, best: Sequence[Scored], count: int, chance: random.Random) -> list[ExpressionPolicy]:
        prompt = (Message("system", _TASK), Message("user", described(best)))
        requests = [
            GenerateRequest(
                prompt,
                SamplingParams(max_tokens=_TOKENS, temperature=_TEMPERATURE, seed=chance.getrandbits(31)),
                self._constraint,
            )
            for _ in range((count + 1) // 2)
        ]
        written = list(_policies(self._ask(requests)))
        self.asked += len(requests)
        self.usable += len(written)
        return [*written, *self._mutator.propose(best, count - len(written), chance)]


def described(best: Sequence[Scored]) -> str:
    """Return what a model is asked: what the names mean, and the best so far."""
    names = {"KEY": KEY_NAMES, "COST": COST_NAMES}
    lines = [
        f"Names in {which} (times in seconds):\n" + "\n".join(f"  {name}: {MEANINGS[name]}" for name in known)
        for which, known in names.items()
    ]
    lines.append("The best so far:")
    lines += [f"score {score:.4g}\nkey: {one.key_expression}\ncost: {one.cost_expression}" for score, one in best]
    lines.append(
        "Write another policy that could score better, in exactly two lines:\nkey: EXPRESSION\ncost: EXPRESSION"
    )
    return "\n\n".join(lines)


def grammar() -> str:
    """Return the Lark grammar of a policy as :func:`described` asks for it."""
    rules = ['start: "key: " key "\\ncost: " cost "\\n"']
    for rule, names in (("key", KEY_NAMES), ("cost", COST_NAMES)):
        terminal = f"{rule.upper()}_NAME"
        rules += [
            f"{rule}: {rule}_part (OPERATOR {rule}_part)*",
            f'{rule}_part: {terminal} | NUMBER | "(" {rule} ")" | CHOICE "(" {rule} ", " {rule} ")"',
            f"{terminal}: {' | '.join(f'{chr(34)}{name}{chr(34)}' for name in names)}",
        ]
    rules += [
        'OPERATOR: " + " | " - " | " * " | " / "',
        'CHOICE: "min" | "max"',
        "NUMBER: /[0-9]{1,4}(\\.[0-9]{1,4})?/",
    ]
    return "\n".join(rules)


def _policies(answers: Sequence[str]) -> Iterator[ExpressionPolicy]:
    """Yield the policies in answers, passing over those that hold none."""
    for answer in answers:
        found = {name.lower(): text for name, text in _LINE.findall(answer)}
        with suppress(ExpressionError, KeyError):
            yield ExpressionPolicy.of(found["key"], found["cost"])
