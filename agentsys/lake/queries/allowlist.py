"""What a statement may do: an allowlist over DuckDB's own syntax tree, so that what is checked is what will run.

sqlglot must parse the statement too, because provenance is traced on its tree.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator
from typing import Any, Final

import duckdb
import sqlglot
from sqlglot import exp

from agentsys.errors import LakeError

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
_CLOCKS: Final = {"current_date", "current_time", "current_timestamp", "localtime", "localtimestamp"}
"""Words that DuckDB parses as columns and, where no column has the name, answers from the clock."""


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


def validate_statement(sql: str, readable: Iterable[str]) -> None:
    if len(sql) > MAX_SQL_CHARACTERS:
        raise ForbiddenQueryError(f"The statement has {len(sql)} characters, more than {MAX_SQL_CHARACTERS}.")
    statement = _duckdb_tree(sql)
    parse_select(sql)
    known = frozenset(name.lower() for name in readable)
    nodes = list(_objects(statement, known))
    table_functions = {id(node["function"]) for node, _ in nodes if node.get("type") == "TABLE_FUNCTION"}
    for node, visible in nodes:
        _check_kind(node)
        _check_function(node, _TABLE_FUNCTIONS if id(node) in table_functions else _FUNCTIONS | _OPERATORS)
        _check_column(node)
        _check_table(node, visible, known)


def _duckdb_tree(sql: str) -> dict[str, Any]:
    with duckdb.connect(":memory:") as connection:
        row = connection.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    if row is None:
        raise PlanSyntaxError(f"The statement {_shown(sql)} is empty.")
    try:
        tree: dict[str, Any] = json.loads(row[0])
    except RecursionError as error:
        raise PlanSyntaxError(f"The statement {_shown(sql)} is nested too deep.") from error
    if tree["error"] and tree.get("error_type") == "parser":
        raise PlanSyntaxError(f"The statement {_shown(sql)} does not parse: {tree['error_message']}.")
    if tree["error"]:
        raise ForbiddenQueryError(f"The statement {_shown(sql)} is not a SELECT.")
    if len(tree["statements"]) != 1:
        raise PlanSyntaxError(f"A step is one statement, {_shown(sql)} has {len(tree['statements'])}.")
    statement: dict[str, Any] = tree["statements"][0]
    return statement


def _objects(value: object, known: frozenset[str]) -> Iterator[tuple[dict[str, Any], frozenset[str]]]:
    """Yield every node with the names of tables that can be read there: those known, and common tables in their scope.

    Elsewhere, and in its own definition, the name of a common table is that of whatever DuckDB has under it.
    """
    pending: list[tuple[object, frozenset[str]]] = [(value, known)]
    while pending:
        current, visible = pending.pop()
        if isinstance(current, dict):
            yield current, visible
            for entry in _common_tables(current):
                pending.append((entry, visible))
                visible |= {entry["key"].lower()}
            pending.extend((inner, visible) for key, inner in current.items() if key != "cte_map")
        elif isinstance(current, list):
            pending.extend((inner, visible) for inner in current)


def _common_tables(node: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the common tables of a node, each of which can read those before it."""
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


def _check_column(node: dict[str, Any]) -> None:
    names = node.get("column_names")
    if isinstance(names, list) and names and str(names[0]).lower() in _CLOCKS:
        raise ForbiddenQueryError(
            f"{names[0]} reads the clock, so the plan gives another result at every run.",
            remedy="Write the date down; a column of that name needs its table's name before it.",
        )


def _check_table(node: dict[str, Any], visible: frozenset[str], known: frozenset[str]) -> None:
    if node.get("type") != "BASE_TABLE":
        return
    name = ".".join(part for part in (node["catalog_name"], node["schema_name"], node["table_name"]) if part)
    if name.lower() not in visible:
        raise UnknownTableError(f"The table {name!r} is not granted to this plan.", remedy=near_names(name, known))


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


def _shown(text: str, limit: int = 120) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= limit else flat[: limit - 1] + "…")
