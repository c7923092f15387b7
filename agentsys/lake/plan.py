"""A query plan: named SQL steps, each a single read-only SELECT over granted families and earlier steps.

Validation is an allowlist over DuckDB's own syntax tree (``json_serialize_sql``), so what is checked is what will
run; sqlglot must parse the statement too, because provenance is traced on its tree.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import duckdb
import sqlglot
from sqlglot import exp
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, traverse_scope
from sqlglot.schema import MappingSchema

from agentsys.errors import LakeError
from agentsys.lake.profiles import Family

FILE_COLUMN: Final = "_file"
"""Column of every family view: the name of the file a row came from, without its folders."""

MAX_STEPS: Final = 16
MAX_SQL_CHARACTERS: Final = 20_000

_QUERY_NODES: Final = {"SELECT_NODE", "SET_OPERATION_NODE", "CTE_NODE"}
_TABLE_REFERENCES: Final = {"BASE_TABLE", "SUBQUERY", "JOIN", "EMPTY", "EXPRESSION_LIST", "PIVOT", "TABLE_FUNCTION"}
_TABLE_FUNCTIONS: Final = {"unnest", "range", "generate_series"}
_OPERATORS: Final = {"+", "-", "*", "/", "//", "%", "**", "^", "||", "~~", "!~~", "~~*", "!~~*", "~~~", "@", "&", "|"}
# Absent on purpose: everything that reads settings, files, clocks or randomness, runs text as SQL, sleeps, or builds
# a long value from a short one (repeat, lpad, range as a scalar, list_resize).
_FUNCTION_NAMES: Final = """
    any_value approx_count_distinct approx_quantile arbitrary arg_max arg_max_null arg_min arg_min_null argmax
    argmin array_agg avg bool_and bool_or corr count count_if count_star countif covar_pop covar_samp entropy favg
    first fsum geomean geometric_mean group_concat histogram kurtosis last list listagg mad max max_by mean median
    min min_by mode product quantile quantile_cont quantile_disc regr_avgx regr_avgy regr_count regr_intercept
    regr_r2 regr_slope regr_sxx regr_sxy regr_syy sem skewness stddev stddev_pop stddev_samp string_agg sum var_pop
    var_samp variance wavg weighted_avg grouping grouping_id row_number rank dense_rank percent_rank cume_dist ntile
    lag lead first_value last_value nth_value fill abs cbrt ceil ceiling degrees divide even exp fdiv floor fmod gcd
    greatest lcm least ln log log10 log2 mod multiply pi pow power radians round round_even sign signbit sqrt
    subtract add trunc acos asin atan atan2 cos cot sin tan isfinite isinf isnan ascii chr concat concat_ws contains
    ends_with instr lcase left len length lower ltrim nfc_normalize ord position prefix regexp_extract
    regexp_extract_all regexp_full_match regexp_matches regexp_replace regexp_split_to_array replace reverse right
    rtrim split split_part starts_with str_split str_split_regex string_split string_split_regex string_to_array
    strip_accents strlen strpos substr substring suffix translate trim ucase unicode upper levenshtein
    damerau_levenshtein editdist3 hamming jaccard jaro_similarity jaro_winkler_similarity like_escape
    not_like_escape ilike_escape not_ilike_escape century date_add date_diff date_part date_sub date_trunc datediff
    datepart datesub datetrunc day dayname dayofmonth dayofweek dayofyear days_in_month decade epoch hour isodow
    isoyear last_day make_date make_timestamp microsecond millisecond minute month monthname quarter second strftime
    strptime try_strptime time_bucket to_days to_hours to_minutes to_months to_seconds to_timestamp to_weeks
    to_years week weekday weekofyear year yearweek coalesce if ifnull nullif hash typeof array_length
    array_to_string cardinality element_at flatten list_aggregate list_apply list_avg list_concat list_contains
    list_count list_distinct list_element list_extract list_filter list_has_all list_has_any list_max list_median
    list_min list_pack list_position list_reduce list_reverse list_reverse_sort list_slice list_sort list_sum
    list_transform list_unique list_value list_zip map map_entries map_extract map_from_entries map_keys map_values
    row struct_extract struct_pack unnest array_extract array_slice json_extract json_extract_string
    json_array_length json_keys json_value
"""
_FUNCTIONS: Final = frozenset(_FUNCTION_NAMES.split())


class PlanSyntaxError(LakeError):
    """A plan or one of its statements does not parse."""

    code = "AGS-0540"
    remedy = "Write each step as one DuckDB SELECT statement."


class ForbiddenQueryError(LakeError):
    """A statement does something other than read granted tables."""

    code = "AGS-0541"
    remedy = "A plan may only SELECT from its granted tables and its earlier steps, with functions of the allowlist."


class UnknownTableError(LakeError):
    """A statement names a table that was not granted."""

    code = "AGS-0542"


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One SELECT; later steps read its result as a table called ``name``."""

    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in the order they run; the result of the last one is the answer."""

    steps: tuple[PlanStep, ...]

    @staticmethod
    def of(sql: str, **earlier: str) -> Plan:
        """Return a plan that ends in ``sql``; ``earlier`` are the steps before it, by name and in order."""
        return Plan((*(PlanStep(name, text) for name, text in earlier.items()), PlanStep("answer", sql)))

    @staticmethod
    def parse(text: str) -> Plan:
        """Read a plan: a JSON object ``{"steps": [{"name", "sql"}, …]}``, or one SQL statement, fenced or bare."""
        body = _unfenced(text)
        if not body.startswith("{"):
            return Plan.of(body.rstrip().rstrip(";"))
        try:
            return Plan.from_json(json.loads(body))
        except ValueError as error:
            raise PlanSyntaxError(f"The plan is not JSON: {error}.") from error

    @staticmethod
    def from_json(data: dict[str, Any]) -> Plan:
        """Rebuild a plan from ``to_json``; raises PlanSyntaxError."""
        try:
            return Plan(tuple(PlanStep(str(step["name"]), str(step["sql"])) for step in data["steps"]))
        except (KeyError, TypeError) as error:
            raise PlanSyntaxError(f"The plan is not an object with steps of name and sql ({error!r}).") from error

    def to_json(self) -> dict[str, Any]:
        """Return the object that ``from_json`` and, as text, ``parse`` read."""
        return {"steps": [{"name": step.name, "sql": step.sql} for step in self.steps]}

    def validate(self, grants: Sequence[Family]) -> None:
        """Check every step but its columns; raises PlanSyntaxError, ForbiddenQueryError or UnknownTableError."""
        if not 1 <= len(self.steps) <= MAX_STEPS:
            raise PlanSyntaxError(f"A plan has 1 to {MAX_STEPS} steps, this one has {len(self.steps)}.")
        readable = {grant.name.lower(): grant.name for grant in grants}
        for step in self.steps:
            if not re.fullmatch(r"[A-Za-z_]\w{0,62}", step.name) or step.name.lower() in readable:
                raise PlanSyntaxError(f"The step name {step.name!r} is taken or not a plain identifier.")
            _validate_statement(step.sql, readable.values())
            readable[step.name.lower()] = step.name


def near_names(name: str, known: Iterable[str]) -> str:
    """Return the sentence that offers what ``name`` may have meant."""
    names = sorted(set(known))
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.5)
    return f"Near names: {', '.join(close)}." if close else f"Known names: {', '.join(names[:20]) or 'none'}."


def parse_select(sql: str) -> exp.Query:
    """Parse one statement with sqlglot's DuckDB dialect; raises PlanSyntaxError."""
    try:
        tree = sqlglot.parse_one(sql, dialect="duckdb")
    except (sqlglot.errors.SqlglotError, RecursionError) as error:
        raise PlanSyntaxError(f"The statement {_shown(sql)} does not parse: {_shown(str(error))}.") from error
    if not isinstance(tree, exp.Query):
        raise ForbiddenQueryError(f"The statement {_shown(sql)} is not a SELECT.")
    return tree


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
        if isinstance(source, Scope) and isinstance(source.expression, exp.Query):
            names = [select.alias_or_name.lower() for select in source.expression.selects]
            return self.of_output(source, names.index(column.name.lower()))
        return frozenset()

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


def _validate_statement(sql: str, readable: Iterable[str]) -> None:
    if len(sql) > MAX_SQL_CHARACTERS:
        raise ForbiddenQueryError(f"The statement has {len(sql)} characters, more than {MAX_SQL_CHARACTERS}.")
    statement = _duckdb_tree(sql)
    parse_select(sql)
    nodes = list(_objects(statement))
    known = {name.lower() for name in readable}
    visible = known | {entry["key"].lower() for node in nodes for entry in _common_tables(node)}
    table_functions = {id(node["function"]) for node in nodes if node.get("type") == "TABLE_FUNCTION"}
    for node in nodes:
        _check_kind(node)
        _check_function(node, _TABLE_FUNCTIONS if id(node) in table_functions else _FUNCTIONS | _OPERATORS)
        _check_table(node, visible, known)


def _duckdb_tree(sql: str) -> dict[str, Any]:
    with duckdb.connect(":memory:") as connection:
        row = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    if row is None:
        raise PlanSyntaxError(f"The statement {_shown(sql)} is empty.")
    tree: dict[str, Any] = json.loads(row[0])
    if tree["error"] and tree.get("error_type") == "parser":
        raise PlanSyntaxError(f"The statement {_shown(sql)} does not parse: {tree['error_message']}.")
    if tree["error"]:
        raise ForbiddenQueryError(f"The statement {_shown(sql)} is not a SELECT.")
    if len(tree["statements"]) != 1:
        raise PlanSyntaxError(f"A step is one statement, {_shown(sql)} has {len(tree['statements'])}.")
    statement: dict[str, Any] = tree["statements"][0]
    return statement


def _objects(value: object) -> Iterator[dict[str, Any]]:
    pending = [value]
    while pending:
        current = pending.pop()
        if isinstance(current, dict):
            yield current
            pending.extend(current.values())
        elif isinstance(current, list):
            pending.extend(current)


def _common_tables(node: dict[str, Any]) -> list[dict[str, Any]]:
    cte_map = node.get("cte_map")
    return cte_map["map"] if isinstance(cte_map, dict) else []


def _check_kind(node: dict[str, Any]) -> None:
    kind = node.get("type")
    if not isinstance(kind, str):
        return
    is_table_reference = "sample" in node and "class" not in node and not kind.endswith("_NODE")
    if kind.endswith("_NODE") and kind not in _QUERY_NODES:
        raise ForbiddenQueryError(f"The statement contains a {kind}.")
    if is_table_reference and kind not in _TABLE_REFERENCES:
        raise ForbiddenQueryError(f"The statement reads from a {kind}.")
    if kind == "VALUE_PARAMETER":
        raise ForbiddenQueryError("The statement has a parameter that nobody binds.")
    if node.get("sample") is not None:
        raise ForbiddenQueryError("The statement samples rows, so it gives another result at every run.")


def _check_function(node: dict[str, Any], allowed: frozenset[str] | set[str]) -> None:
    name = node.get("function_name")
    if isinstance(name, str) and (node.get("schema") or node.get("catalog") or name.lower() not in allowed):
        raise ForbiddenQueryError(f"The function {name} is not allowed here. {near_names(name, allowed - _OPERATORS)}")


def _check_table(node: dict[str, Any], visible: set[str], known: set[str]) -> None:
    if node.get("type") != "BASE_TABLE":
        return
    name = ".".join(part for part in (node["catalog_name"], node["schema_name"], node["table_name"]) if part)
    if name.lower() not in visible:
        raise UnknownTableError(f"The table {name!r} is not granted to this plan.", remedy=near_names(name, known))


def _unfenced(text: str) -> str:
    fenced = re.search(r"```[a-zA-Z]*\s*\n(.*?)```", text, re.DOTALL)
    return (fenced.group(1) if fenced else text).strip()


def _shown(text: str, limit: int = 120) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= limit else flat[: limit - 1] + "…")
