"""Where a plan's result comes from: the families, columns and files that each of its statements reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import sqlglot
from sqlglot import exp
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope
from sqlglot.schema import MappingSchema

from agentsys.lake.profiles import Family
from agentsys.lake.queries.allowlist import parse_select
from agentsys.lake.queries.plan import FILE_COLUMN, Plan


@dataclass(slots=True)
class StatementTrace:
    """What one statement reads. A base column is written ``family.column``.

    ``outputs``: per result column, in order, the base columns its values are computed from; ``None`` when unknown.
    ``columns``: all base columns the statement touches, filters and groupings included.
    ``tables``: families and steps it reads. ``probes``: per family the statements that list the files whose rows
    pass its joins and filters; ``None`` stands for all files.
    """

    outputs: list[frozenset[str]] | None = None
    names: list[str] = field(default_factory=list)
    columns: set[str] = field(default_factory=set)
    tables: set[str] = field(default_factory=set)
    probes: dict[str, list[str] | None] = field(default_factory=dict)


def trace(plan: Plan, grants: Sequence[Family]) -> dict[str, StatementTrace]:
    """Return what each step reads that the last one depends on, by step name in running order.

    Precise where sqlglot resolves the statement; else it names every column and file the statement could touch.
    """
    families = {grant.name.lower(): [*(column.name for column in grant.columns), FILE_COLUMN] for grant in grants}
    traces: dict[str, StatementTrace] = {}
    for step in plan.steps:
        tree = parse_select(step.sql)
        try:
            traces[step.name.lower()] = _traced(tree.copy(), families, traces)
        except (sqlglot.errors.SqlglotError, LookupError, ValueError, RecursionError):
            traces[step.name.lower()] = _coarse(tree, families, traces)
    needed = {plan.steps[-1].name.lower()}
    for name in reversed(traces):
        if name in needed:
            needed |= traces[name].tables
    return {name: found for name, found in traces.items() if name in needed}


def _coarse(tree: exp.Query, families: Mapping[str, list[str]], steps: Mapping[str, StatementTrace]) -> StatementTrace:
    tables = _tables_read(tree, families, steps)
    read = tables & families.keys()
    return StatementTrace(
        tables=tables,
        columns={f"{family}.{column}" for family in read for column in families[family]},
        probes=dict.fromkeys(read),
    )


def _tables_read(tree: exp.Query, families: Mapping[str, object], steps: Mapping[str, object]) -> set[str]:
    return {table.name.lower() for table in tree.find_all(exp.Table)} & (families.keys() | steps.keys())


def _traced(tree: exp.Query, families: Mapping[str, list[str]], steps: Mapping[str, StatementTrace]) -> StatementTrace:
    known = {name: found.names for name, found in steps.items() if found.names} | dict(families)
    schema = MappingSchema(
        {name: dict.fromkeys(columns, "VARCHAR") for name, columns in known.items()}, dialect="duckdb"
    )
    tree = qualify(tree, schema=schema, dialect="duckdb", quote_identifiers=False)
    if any(isinstance(node, exp.Star | exp.Columns) and not isinstance(node.parent, exp.Count) for node in tree.walk()):
        raise LookupError("a star stays unresolved")
    if tree.find(exp.TableColumn):
        raise LookupError("a table's name stands for its whole rows")
    if any(operation.args.get("by_name") for operation in tree.find_all(exp.SetOperation)):
        raise LookupError("a union by name has columns of no one position")
    scopes = traverse_scope(tree)
    tables = _tables_read(tree, families, steps)
    found = StatementTrace(names=[select.alias_or_name for select in tree.selects], tables=tables)
    origins = _Origins(families, steps)
    for scope in scopes:
        for alias, (_, source) in scope.selected_sources.items():
            if isinstance(source, exp.Table) and source.name.lower() in families:
                _add_probe(found.probes, source.name.lower(), _file_probe(scope, alias, tree))
        for column in scope.columns:
            found.columns |= origins.of_column(scope, column)
    # Semi and anti joins, for example, are no sources of a scope.
    found.probes |= dict.fromkeys(tables & families.keys() - found.probes.keys())
    found.outputs = [origins.of_output(scopes[-1], position) for position in range(len(tree.selects))]
    return found


class _Origins:
    """The base columns behind columns of a resolved statement.

    Each scope's column is traced once: common tables that read one another would double the work at every level.
    """

    def __init__(self, families: Mapping[str, list[str]], steps: Mapping[str, StatementTrace]) -> None:
        self._known: dict[tuple[int, int], frozenset[str]] = {}
        self._bases = {
            name: {column.lower(): frozenset({f"{name}.{column}"}) for column in columns}
            for name, columns in families.items()
        }
        for name, step in steps.items():
            if step.outputs is not None:
                self._bases[name] = dict(zip(step.names, step.outputs, strict=True))

    def of_column(self, scope: Scope, column: exp.Column) -> frozenset[str]:
        source = scope.sources.get(column.table)
        if isinstance(source, exp.Table):
            return self._bases[source.name.lower()][column.name.lower()]
        if not isinstance(source, Scope):
            return frozenset()
        if isinstance(source.expression, exp.Query):
            names = [select.alias_or_name.lower() for select in source.expression.selects]
            return self.of_output(source, names.index(column.name.lower()))
        if source.expression.find(exp.Query):
            raise LookupError("a table function takes a query apart")
        # What is taken apart, as by unnest, stands beside the tables that it is from.
        return frozenset().union(*(self.of_column(scope, part) for part in source.expression.find_all(exp.Column)))

    def of_output(self, scope: Scope, position: int) -> frozenset[str]:
        key = (id(scope), position)
        if key not in self._known:
            self._known[key] = self._traced(scope, position)
        return self._known[key]

    def _traced(self, scope: Scope, position: int) -> frozenset[str]:
        if scope.set_operation_scopes:
            return frozenset().union(*(self.of_output(branch, position) for branch in scope.set_operation_scopes))
        query = scope.expression
        if not isinstance(query, exp.Query):
            return frozenset()
        select = query.selects[position]
        origins = frozenset().union(*(self.of_column(scope, column) for column in select.find_all(exp.Column)))
        inner = (sub for sub in scope.subquery_scopes if _is_below(sub.expression, select))
        return origins.union(*(self.of_output(sub, 0) for sub in inner))


def _is_below(node: exp.Expr, ancestor: exp.Expr) -> bool:
    current: exp.Expr | None = node
    while current is not None and current is not ancestor:
        current = current.parent
    return current is ancestor


def _add_probe(probes: dict[str, list[str] | None], family: str, probe: str | None) -> None:
    earlier = probes.get(family, [])
    probes[family] = None if probe is None or earlier is None else [*earlier, probe]


def _file_probe(scope: Scope, alias: str, tree: exp.Query) -> str | None:
    """Return a statement for the files whose rows pass the scope's joins and filters; ``None`` if correlated."""
    nested = sum(1 for _ in tree.find_all(exp.CTE)) > len(tree.ctes)
    if nested or scope.external_columns or not isinstance(scope.expression, exp.Select):
        return None
    probe = exp.select(exp.column(FILE_COLUMN, table=alias)).distinct()
    for part in ("from", "from_", "joins", "laterals", "where"):
        if scope.expression.args.get(part):
            value = scope.expression.args[part]
            probe.set(part, [item.copy() for item in value] if isinstance(value, list) else value.copy())
    for common in tree.ctes:
        if _is_below(scope.expression, common):
            break
        probe = probe.with_(common.alias, as_=common.this.copy())
    return probe.sql(dialect="duckdb")
