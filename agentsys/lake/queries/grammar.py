"""A grammar of SQL over the tables and columns at hand, for constrained decoding (Lark, llguidance's dialect).

Every sentence parses and binds in DuckDB: columns appear only with their own table, numeric aggregates only on
numeric columns, literals only of the column's kind, and where a column has few values only those. Nothing repeats
without bound, so a constrained generation always ends; ``SqlGrammar.longest`` says after how many bytes at most.

Families and pairs of families that share a column are *scopes*; each scope has its own copy of the rules.

llguidance's lexer takes the longest literal and never goes back: no literal here continues another one with a
character that could also follow it (so ``"town"`` and ``" IN ("`` are two literals).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import duckdb
import sqlglot
from sqlglot import exp

from agentsys.lake.profiles import ColumnProfile, Family
from agentsys.lake.queries.plan import FILE_COLUMN
from agentsys.lake.queries.schema_text import relevant_columns
from agentsys.serving.requests import Constraint

MAX_COLUMNS: Final = 40
MAX_VALUES: Final = 120
MAX_VALUE_BYTES: Final = 80
MAX_JOINS: Final = 4
_KINDS: Final = {
    "number": (
        "TINYINT",
        "SMALLINT",
        "INTEGER",
        "BIGINT",
        "HUGEINT",
        "UBIGINT",
        "UINTEGER",
        "FLOAT",
        "DOUBLE",
        "DECIMAL",
    ),
    "date": ("DATE", "TIMESTAMP"),
    "boolean": ("BOOLEAN",),
    "text": ("VARCHAR",),
}
_DAY: Final = r"((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))"


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a grammar: its Lark text and the bytes of its longest sentence."""

    text: str
    longest: int


@dataclass(frozen=True, slots=True)
class SqlGrammar:
    """A whole grammar. ``longest``: bytes of its longest sentence, hence also the most tokens it can take."""

    lark: str
    longest: int


@dataclass(frozen=True, slots=True)
class _Column:
    """A column as a scope writes it; ``values`` are all the texts it can hold, or empty when there are too many."""

    sql: str
    kind: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Scope:
    """What a SELECT reads from (a table, and perhaps a join to another), and the columns it may name."""

    table: str
    columns: tuple[_Column, ...]
    join: str = ""

    @property
    def source(self) -> Piece:
        return _all(f" FROM {self.table}", self.join) if self.join else _all(f" FROM {self.table}")

    def of_kind(self, *kinds: str) -> list[_Column]:
        return [column for column in self.columns if column.kind in kinds]


@dataclass(slots=True)
class _Rules:
    """The rules written so far, in order."""

    written: dict[str, Piece] = field(default_factory=dict)

    def rule(self, name: str, body: Piece) -> Piece:
        self.written[name] = body
        return Piece(name, body.longest)

    def to_lark(self) -> str:
        return "\n".join(f"{name}: {body.text}" for name, body in self.written.items()) + "\n"


def sql_constraint(families: Sequence[Family], question: str | None = None, *, breadth: int = 3) -> Constraint:
    """Return the constraint that lets a model write only SQL over ``families``; see ``sql_grammar``."""
    return Constraint("lark", sql_grammar(families, question, breadth=breadth).lark)


def sql_grammar(families: Sequence[Family], question: str | None = None, *, breadth: int = 3) -> SqlGrammar:
    """Return the grammar over ``families`` (at least one). Wide tables keep the columns nearest the question.

    A list (of results, conditions, values) has at most ``breadth`` items after its first: the smaller, the shorter
    the longest sentence, for models whose answer must fit few tokens.
    """
    if not families or breadth < 1:
        raise ValueError(f"a grammar needs at least one family and a breadth of 1, got {len(families)} and {breadth}")
    rules = _Rules()
    terminals = _write_terminals(rules)
    scopes = [_family_scope(family, question) for family in families]
    scopes += itertools.islice(_join_scopes(families, question), MAX_JOINS)
    queries = [
        _ScopeRules(f"s{number}", scope, rules, terminals, breadth).query() for number, scope in enumerate(scopes)
    ]
    start = rules.rule("start", _any(*queries))
    return SqlGrammar(rules.to_lark(), start.longest)


def _family_scope(family: Family, question: str | None) -> _Scope:
    return _Scope(identifier(family.name), tuple(_columns(family, question, prefix="")))


def _join_scopes(families: Sequence[Family], question: str | None) -> Iterator[_Scope]:
    for left, right in itertools.combinations(families, 2):
        right_kinds = {column.name: _kind(column) for column in right.columns}
        for column in left.columns:
            if right_kinds.get(column.name) == _kind(column) != "other":
                names = identifier(left.name), identifier(right.name)
                columns = (*_columns(left, question, f"{names[0]}."), *_columns(right, question, f"{names[1]}."))
                yield _Scope(names[0], columns, f" JOIN {names[1]} USING ({identifier(column.name)})")


def _columns(family: Family, question: str | None, prefix: str) -> Iterator[_Column]:
    for column in relevant_columns(family, question)[:MAX_COLUMNS]:
        if _kind(column) != "other":
            yield _Column(prefix + identifier(column.name), _kind(column), _all_values(column))
    names = sorted({file.rpartition("/")[2] for file in family.files})
    if 1 < len(names) <= MAX_VALUES:
        yield _Column(prefix + FILE_COLUMN, "text", tuple(names))


def _all_values(column: ColumnProfile) -> tuple[str, ...]:
    values = set(column.terms)
    complete = 0 < len(values) <= MAX_VALUES and column.distinct <= len(values)
    writable = all(value.isprintable() and len(value.encode()) <= MAX_VALUE_BYTES for value in values)
    return tuple(sorted(values)) if complete and writable and column.type == "VARCHAR" else ()


def _kind(column: ColumnProfile) -> str:
    base = column.type.partition("(")[0]
    return next((kind for kind, types in _KINDS.items() if base in types), "other")


@cache
def _reserved_words() -> frozenset[str]:
    with duckdb.connect(":memory:") as connection:
        rows = connection.execute("SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'")
        return frozenset(row[0] for row in rows.fetchall())


@cache
def identifier(name: str) -> str:
    """Return ``name`` as SQL, quoted only where DuckDB or sqlglot would otherwise read it as something else."""
    quoted = '"' + name.replace('"', '""') + '"'
    if not name.isidentifier() or not name.isascii() or name.lower() in _reserved_words():
        return quoted
    try:
        # A trial parse only: nothing runs this text.
        tree = sqlglot.parse_one(
            f"SELECT max({name}), {name} FROM {name} WHERE {name} = 1 ORDER BY {name}",  # noqa: S608
            dialect="duckdb",
        )
    except sqlglot.errors.SqlglotError:
        return quoted
    plain = [column for column in tree.find_all(exp.Column) if column.name == name]
    return name if len(plain) == 4 and tree.find(exp.Table) is not None else quoted


def _text(value: str) -> Piece:
    return Piece(json.dumps(value, ensure_ascii=False), len(value.encode()))


def _pattern(regular_expression: str, longest: int) -> Piece:
    return Piece(f"/{regular_expression}/", longest)


def _all(*pieces: Piece | str) -> Piece:
    parts = [_text(piece) if isinstance(piece, str) else piece for piece in pieces]
    return Piece(" ".join(part.text for part in parts), sum(part.longest for part in parts))


def _any(*pieces: Piece | str) -> Piece:
    parts = [_text(piece) if isinstance(piece, str) else piece for piece in pieces]
    return Piece("(" + " | ".join(part.text for part in parts) + ")", max(part.longest for part in parts))


def _upto(most: int, *pieces: Piece | str) -> Piece:
    body = _all(*pieces)
    return Piece(f"({body.text}){{0,{most}}}", most * body.longest)


def _maybe(*pieces: Piece | str) -> Piece:
    body = _all(*pieces)
    return Piece(f"({body.text})?", body.longest)


def _write_terminals(rules: _Rules) -> Mapping[str, Piece]:
    return {
        "number": rules.rule("NUMBER", _pattern(r"-?(0|[1-9][0-9]{0,11})(\.[0-9]{1,4})?", 18)),
        "compare": rules.rule("COMPARE", _any(" = ", " <> ", " < ", " <= ", " > ", " >= ")),
        "string": rules.rule("STRING", _pattern(r"'([^'\\\x00-\x1f\x7f]|''){1,40}'", 162)),
        "like": rules.rule("LIKE", _pattern(r"'%[^'%_\\\x00-\x1f\x7f]{1,40}%'", 164)),
        "date": rules.rule("DATE", _pattern(rf"DATE '(19|20)[0-9]{{2}}-{_DAY}'", 17)),
        "limit": rules.rule("LIMIT", _pattern(r" LIMIT [1-9][0-9]?", 9)),
        "direction": rules.rule("DIRECTION", _any(" DESC", " ASC")),
        "digits": rules.rule("DIGITS", _pattern(r"[0-4]", 1)),
    }


class _ScopeRules:
    """Writes the rules of one scope; every rule name starts with the scope's ``prefix``."""

    def __init__(self, prefix: str, scope: _Scope, rules: _Rules, terminals: Mapping[str, Piece], breadth: int) -> None:
        self.prefix = prefix
        self.scope = scope
        self.rules = rules
        self.terminals = terminals
        self.breadth = breadth

    def query(self) -> Piece:
        """Write the rules and return the one for a whole SELECT."""
        condition = self._condition()
        where = self._rule("where", _maybe(" WHERE ", condition, self._list(_any(" AND ", " OR "), condition)))
        measure, total = self._measures(condition)
        tail = _all(self.scope.source, where)
        totals = self._rule("totals", _all("SELECT ", total, self._list(", ", total), tail))
        queries = [totals, *self._row_queries(tail), *self._group_queries(measure, total, tail)]
        return self._rule("query", _any(*queries))

    def _rule(self, name: str, body: Piece) -> Piece:
        return self.rules.rule(f"{self.prefix}_{name}", body)

    def _list(self, *pieces: Piece | str) -> Piece:
        return _upto(self.breadth, *pieces)

    def _choice(self, name: str, columns: Sequence[_Column]) -> Piece | None:
        return self._rule(name, _any(*(column.sql for column in columns))) if columns else None

    def _numbers(self) -> Piece | None:
        column = self._choice("number", self.scope.of_kind("number"))
        if column is None:
            return None
        return self._rule("numeric", _any(column, _all(column, _any(" + ", " - ", " * ", " / "), column)))

    def _measures(self, condition: Piece) -> tuple[Piece, Piece]:
        """Return the rules for a numeric aggregate expression, and for any aggregate expression."""
        any_column = self._choice("any", self.scope.columns)
        calls: list[Piece] = [_text("count(*)")]
        others: list[Piece] = []
        numeric = self._numbers()
        if any_column is not None:
            calls.append(_all("count(DISTINCT ", any_column, ")"))
        if numeric is not None:
            calls.append(_all(_any("sum(", "avg(", "min(", "max(", "median("), numeric, ")"))
        if numeric is not None and any_column is not None:
            others.append(_all(_any("arg_max(", "arg_min("), any_column, ", ", numeric, ")"))
        ordered = self._choice("ordered", self.scope.of_kind("date", "text"))
        if ordered is not None:
            others.append(_all(_any("min(", "max("), ordered, ")"))
        filtered = _maybe(" FILTER (WHERE ", condition, ")")
        call = self._rule("call", _all(_any(*calls), filtered))
        ratio = _any(call, _all(call, _any(" / ", " - ", " + "), call), _all("100.0 * ", call, " / ", call))
        expression = self._rule("expression", ratio)
        measure = self._rule(
            "measure", _any(expression, _all("round(", expression, ", ", self.terminals["digits"], ")"))
        )
        return measure, self._rule("total", _any(measure, *others))

    def _row_queries(self, tail: Piece) -> list[Piece]:
        column = self._choice("column", self.scope.columns)
        if column is None:
            return []
        order = _maybe(" ORDER BY ", column, _maybe(self.terminals["direction"]))
        chosen = _all(column, self._list(", ", column), tail)
        limit = _maybe(self.terminals["limit"])
        return [
            self._rule("rows", _all("SELECT ", chosen, order, limit)),
            self._rule("distinct", _all("SELECT ", "DISTINCT ", chosen, _maybe(" ORDER BY 1"), limit)),
        ]

    def _group_queries(self, measure: Piece, total: Piece, tail: Piece) -> Iterator[Piece]:
        having = _maybe(" HAVING ", measure, self.terminals["compare"], self.terminals["number"])
        limit = _maybe(self.terminals["limit"])
        keys = [column.sql for column in self.scope.columns]
        keys += [f"{part}({column.sql})" for column in self.scope.of_kind("date") for part in ("year", "month")]
        for number, key in enumerate(keys):
            order = _maybe(" ORDER BY ", _any(total, key), _maybe(self.terminals["direction"]))
            chosen = _any(_all(key, self._list(", ", total)), _all(total, self._list(", ", total)))
            yield self._rule(f"group{number}", _all("SELECT ", chosen, tail, f" GROUP BY {key}", having, order, limit))

    def _condition(self) -> Piece:
        conditions = [piece for column in self.scope.columns for piece in self._column_conditions(column)]
        conditions += self._typed_conditions()
        return self._rule("condition", _any(*conditions) if conditions else _text("TRUE"))

    def _typed_conditions(self) -> Iterator[Piece]:
        compare, number, string = (self.terminals[name] for name in ("compare", "number", "string"))
        numeric = self._choice("compared", self.scope.of_kind("number"))
        if numeric is not None:
            inner = _all(_any("max(", "min(", "avg(", "median("), numeric, ")", self.scope.source)
            yield _all(numeric, compare, _any(number, _all("(SELECT ", inner, ")")))
            yield _all(numeric, " BETWEEN ", number, " AND ", number)
        dates = self._choice("dated", self.scope.of_kind("date"))
        if dates is not None:
            yield _all(dates, compare, self.terminals["date"])
            yield _all(_any("year(", "month("), dates, ")", compare, number)
        texts = self._choice("texts", [column for column in self.scope.of_kind("text") if not column.values])
        if texts is not None:
            yield _all(texts, _any(" = ", " <> "), string)
            yield _all(texts, _any(" ILIKE ", " NOT ILIKE "), self.terminals["like"])
        known = self._choice("nullable", self.scope.columns)
        if known is not None:
            yield _all(known, _any(" IS NULL", " IS NOT NULL"))

    def _column_conditions(self, column: _Column) -> Iterator[Piece]:
        if column.kind == "boolean":
            yield _any(column.sql, f"NOT {column.sql}")
        if column.values:
            literals = ("'" + value.replace("'", "''") + "'" for value in column.values)
            name = f"values{self.scope.columns.index(column)}"
            value = self._rule(name, _any(*literals))
            yield _all(column.sql, _any(" = ", " <> "), value)
            yield _all(column.sql, " IN (", value, self._list(", ", value), ")")
