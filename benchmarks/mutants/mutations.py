"""Mutations: every place of a module where one small fault can be put, and the module with that fault in it.

What is mutated: comparisons, conditions, Boolean and set operations, arithmetic, constants (texts that only people
read aside), returned values, statements that are calls, keyword arguments, starred members, and the calls by which
labels are joined, which become their receiver. Source: the operators of mutmut and of Offutt et al., TOSEM 1996.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

_SWAPPED: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_NEGATED_BY_SWAP: Final = (ast.Eq, ast.NotEq, ast.In, ast.NotIn, ast.Is, ast.IsNot)
_NAMES: Final = {"min": "max", "max": "min", "any": "all", "all": "any", "removeprefix": "removesuffix"}
_TO_RECEIVER: Final = frozenset({"join", "endorsed", "strip", "casefold", "lower"})
_FOR_PEOPLE: Final = frozenset({"description", "remedy", "default_factory"})
_NOT_MUTATED: Final = frozenset({"annotation", "returns", "decorator_list", "type_params", "ctx", "op", "ops"})


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault: ``number`` counts those of the module; ``function`` is empty for what runs as the module is loaded."""

    module: str
    number: int
    function: str
    line: int
    before: str
    after: str

    @property
    def where(self) -> str:
        return f"{self.module}:{self.line}"

    def __str__(self) -> str:
        return f"{self.where} {self.function or 'declaration'}: {self.before} → {self.after}"


@dataclass(frozen=True, slots=True)
class _Site:
    node: ast.AST
    function: str
    after: ast.AST | None
    put: Callable[[], None]


def mutants_of(module: str, source: str, functions: frozenset[str] | None = None) -> list[Mutant]:
    """Return all mutants of a module, or those inside the named ``functions`` only."""
    found = []
    for number, site in enumerate(_sites(ast.parse(source))):
        if functions is None or site.function.rpartition(".")[2] in functions:
            after = "nothing" if site.after is None else _text(site.after)
            found.append(Mutant(module, number, site.function, _line(site.node), _text(site.node), after))
    return found


def mutated(source: str, number: int) -> ast.Module:
    """Return the module with its mutant ``number``."""
    tree = ast.parse(source)
    next(site for position, site in enumerate(_sites(tree)) if position == number).put()
    return ast.fix_missing_locations(tree)


def _sites(tree: ast.Module) -> Iterator[_Site]:
    """Find all places before the first of them is changed, so that numbers stay what they are."""
    yield from list(_inside(tree, "", inside_function=False))


def _inside(node: ast.AST, name: str, *, inside_function: bool) -> Iterator[_Site]:
    for field, value in ast.iter_fields(node):
        if field in _NOT_MUTATED or isinstance(node, ast.Assert | ast.JoinedStr) or _for_people(node):
            continue
        # Defaults of parameters are evaluated where the function is defined.
        inside = inside_function and not (field == "args" and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        members = value if isinstance(value, list) else [value]
        for position, child in enumerate(members):
            if not isinstance(child, ast.AST) or _is_docstring(node, field, position, child):
                continue
            function = name if inside else ""
            for after in _alternatives(node, field, child):
                yield _Site(child, function, after, _putter(node, field, position, value, after))
            yield from _deeper(child, name, inside_function=inside)


def _deeper(child: ast.AST, name: str, *, inside_function: bool) -> Iterator[_Site]:
    if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not inside_function:
        inner = f"{name}.{child.name}" if name else child.name
        yield from _inside(child, inner, inside_function=not isinstance(child, ast.ClassDef))
    else:
        yield from _inside(child, name, inside_function=inside_function)


def _alternatives(parent: ast.AST, field: str, node: ast.AST) -> Iterator[ast.AST | None]:
    """Return what may stand in the place of ``node``; ``None``: nothing."""
    if field in ("test", "ifs") and not _negated_otherwise(node):
        yield ast.UnaryOp(ast.Not(), copy.deepcopy(node))  # type: ignore[arg-type]
    match node:
        case ast.Compare(ops=[only]) | ast.BinOp(op=only) if type(only) in _SWAPPED:
            yield _with_operator(node, _SWAPPED[type(only)]())
        case ast.Compare(ops=[first, *_]):
            yield _with_operator(node, _SWAPPED[type(first)]())
        case ast.BoolOp(op=operator, values=values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), copy.deepcopy(values))
            for left_out in values:
                rest = [copy.deepcopy(value) for value in values if value is not left_out]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield copy.deepcopy(operand)
        case ast.Constant(value=value):
            yield from _other_constants(value)
        case ast.Return(value=ast.AST() as value) if not isinstance(value, ast.Constant):
            yield ast.Return(ast.Constant(None))
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Raise() | ast.AugAssign() | ast.Continue():
            yield ast.Pass()
        case ast.Call():
            yield from _other_calls(node)
        case ast.keyword(arg=str(name)) if name not in _FOR_PEOPLE:
            yield None
        case ast.Starred() if isinstance(parent, ast.List | ast.Set | ast.Tuple | ast.Call):
            yield None
        case ast.Name(id=name) if name in _NAMES and isinstance(parent, ast.Call) and field == "func":
            yield ast.Name(_NAMES[name], ast.Load())


def _other_constants(value: object) -> Iterator[ast.AST]:
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str) and " " not in value:
        yield ast.Constant(value + "~")


def _other_calls(node: ast.Call) -> Iterator[ast.AST]:
    if isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Constant):
        if node.func.attr in _TO_RECEIVER:
            yield copy.deepcopy(node.func.value)
        elif node.func.attr in _NAMES:
            changed = copy.deepcopy(node)
            changed.func.attr = _NAMES[node.func.attr]  # type: ignore[attr-defined]
            yield changed


def _with_operator(node: Any, operator: ast.AST) -> ast.AST:
    changed = copy.deepcopy(node)
    if isinstance(changed, ast.Compare):
        changed.ops[0] = operator  # type: ignore[call-overload]
    else:
        changed.op = operator
    return changed  # type: ignore[no-any-return]


def _putter(node: ast.AST, field: str, position: int, value: object, after: ast.AST | None) -> Callable[[], None]:
    def put() -> None:
        if not isinstance(value, list):
            setattr(node, field, after)
        elif after is None:
            del value[position]
        else:
            value[position] = after

    return put


def _negated_otherwise(node: ast.AST) -> bool:
    simple = isinstance(node, ast.Compare) and len(node.ops) == 1 and isinstance(node.ops[0], _NEGATED_BY_SWAP)
    return simple or (isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not))


def _for_people(node: ast.AST) -> bool:
    """Whether a node holds only what people read: a description, or the remedy of an error."""
    if isinstance(node, ast.keyword):
        return node.arg in _FOR_PEOPLE
    return isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id == "remedy"


def _is_docstring(node: ast.AST, field: str, position: int, child: ast.AST) -> bool:
    return field == "body" and isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)


def _line(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 0))


def _text(node: ast.AST) -> str:
    text = " ".join(ast.unparse(node).split())
    return text if len(text) <= 100 else f"{text[:97]}..."
