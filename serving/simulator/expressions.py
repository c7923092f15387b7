"""Small arithmetic expressions: what a search may write instead of code. They are parsed, never executed as Python.

::

    expression: number | name | -e | e + e | e - e | e * e | e / e | min(e, e) | max(e, e)

Division by next to nothing gives nought, so every expression has a value.
"""

from __future__ import annotations

import ast
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from agentsys.errors import ServingError

MOST_NODES: Final = 31
_MOST_CHARACTERS: Final = 2_000
_TINY: Final = 1e-9

_OPERATIONS: Final[Mapping[str, Callable[[float, float], float]]] = {
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right if abs(right) > _TINY else 0.0,
    "min": min,
    "max": max,
}
_SYMBOLS: Final = {ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"}


class ExpressionError(ServingError):
    """A text is no expression, names something unknown, or is too long."""

    code = "AGS-0472"
    remedy = "Use numbers, the names listed, + - * / and min(a, b), max(a, b)."


@dataclass(frozen=True, slots=True)
class Expression:
    """A tree: ``head`` is an operation with two ``arguments``, or a name or a number with none."""

    head: str | float
    arguments: tuple[Expression, ...] = ()

    def __str__(self) -> str:
        if not self.arguments:
            return str(self.head)
        left, right = map(str, self.arguments)
        return f"{self.head}({left}, {right})" if self.head in ("min", "max") else f"({left} {self.head} {right})"

    def value(self, names: Mapping[str, float]) -> float:
        """Return the value where names have these values; what is no number counts as nought."""
        if not self.arguments:
            return self.head if isinstance(self.head, float) else names[self.head]
        left, right = (argument.value(names) for argument in self.arguments)
        result = _OPERATIONS[str(self.head)](left, right)
        return result if not math.isnan(result) else 0.0

    def nodes(self) -> Iterator[Expression]:
        """Yield every node, the root first."""
        yield self
        for argument in self.arguments:
            yield from argument.nodes()

    @property
    def size(self) -> int:
        return sum(1 for _ in self.nodes())


def parse(text: str, names: Sequence[str]) -> Expression:
    """Read an expression over ``names``. Raises :class:`ExpressionError`."""
    if len(text) > _MOST_CHARACTERS:
        raise ExpressionError(f"an expression of {len(text)} characters is too long; {_MOST_CHARACTERS} are allowed.")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        expression = _read(tree, names)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"{text[:200]!r} is no expression: {error}.") from error
    if expression.size > MOST_NODES:
        raise ExpressionError(f"an expression of {expression.size} parts is too long; {MOST_NODES} are allowed.")
    return expression


def _read(node: ast.expr, names: Sequence[str]) -> Expression:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool) and math.isfinite(number):
            return Expression(float(number))
        case ast.Name(id=name) if name in names:
            return Expression(name)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = _read(operand, names)
            return Expression(-inner.head) if isinstance(inner.head, float) else _operation("-", Expression(0.0), inner)
        case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _SYMBOLS:
            return _operation(_SYMBOLS[type(operator)], _read(left, names), _read(right, names))
        case ast.Call(func=ast.Name(id="min" | "max" as name), args=[left, right], keywords=[]):
            return _operation(name, _read(left, names), _read(right, names))
        case ast.Name(id=name):
            raise ValueError(f"{name!r} is not one of {', '.join(names)}")
    raise ValueError(f"{type(node).__name__} is not allowed")


def _operation(name: str, left: Expression, right: Expression) -> Expression:
    return Expression(name, (left, right))


def mutate(expression: Expression, names: Sequence[str], chance: random.Random) -> Expression:
    """Return the expression with one part changed; never one that is too long."""
    target = chance.randrange(expression.size)
    changed, _ = _change(expression, target, names, chance)
    return changed if changed.size <= MOST_NODES else expression


def _change(node: Expression, target: int, names: Sequence[str], chance: random.Random) -> tuple[Expression, int]:
    """Change the node that ``target`` more are before; returns the tree and how many are still before."""
    if target == 0:
        return _changed(node, names, chance), -1
    target -= 1
    arguments = []
    for argument in node.arguments:
        if target >= 0:
            argument, target = _change(argument, target, names, chance)
        arguments.append(argument)
    return Expression(node.head, tuple(arguments)), target


def _changed(node: Expression, names: Sequence[str], chance: random.Random) -> Expression:
    leaf = Expression(chance.choice(names)) if chance.random() < 0.6 else Expression(_constant(chance))
    choice = chance.random()
    if isinstance(node.head, float) and choice < 0.6:
        return Expression(_rounded(node.head * math.exp(chance.gauss(0, 0.5))))
    if node.arguments and choice < 0.25:
        return chance.choice(node.arguments)
    if node.arguments and choice < 0.5:
        return Expression(chance.choice(list(_OPERATIONS)), node.arguments)
    if choice < 0.75:
        weighted = Expression("*", (Expression(_constant(chance)), leaf))
        return Expression(chance.choice(list(_OPERATIONS)), (node, weighted if chance.random() < 0.5 else leaf))
    return leaf


def _constant(chance: random.Random) -> float:
    return _rounded(chance.choice((0.1, 0.5, 1.0, 2.0, 10.0)) * math.exp(chance.gauss(0, 0.3)))


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")
