"""The tools by which agents reach a lake: a description of a family, and the sandbox that runs query plans."""

from __future__ import annotations

from dataclasses import asdict

from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import join_all
from agentsys.labelled import Labelled
from agentsys.lake.lake import Lake
from agentsys.lake.profiles import Family
from agentsys.lake.queries.plan import Plan
from agentsys.lake.queries.sandbox import QueryResult, QuerySandbox, SandboxLimits
from agentsys.lake.queries.schema_text import schema_text
from agentsys.tools import Tool, tool

DESCRIBE_FAMILY = "describe_family"
RUN_QUERY = "run_query"


def lake_tools(lake: Lake, limits: SandboxLimits | None = None) -> list[Tool]:
    """Return the tools of one lake.

    A result carries the labels of all files of the families it was read from, whether or not their rows passed the
    filters: which rows pass is also something a file says. An error may quote any file, so it carries all labels.
    """
    bounds = limits or SandboxLimits()
    everything = join_all(family.label for family in lake.families)

    @tool(name=DESCRIBE_FAMILY, effect=EffectClass.PURE, source=everything)
    def describe_family(family: str, question: str) -> Labelled[Json]:
        """Describe a family's table and columns, those nearest to the question first."""
        found = lake.family(family)
        return Labelled(schema_text([found], question=question), found.label)

    @tool(name=RUN_QUERY, effect=EffectClass.PURE, source=everything, timeout=2 * bounds.seconds + 10)
    def run_query(plan: str, families: list[str]) -> Labelled[Json]:
        """Run a query plan (as ``Plan.parse`` reads it) over the granted families, without reach beyond them."""
        return answer_plan(Plan.parse(plan), [lake.family(name) for name in families], bounds)

    return [describe_family, run_query]


def answer_plan(plan: Plan, granted: list[Family], limits: SandboxLimits) -> Labelled[Json]:
    """Run a plan; its result carries the labels of the families that it was read from."""
    result = QuerySandbox(granted, limits).run(plan)
    return Labelled(_document(result), join_all(family.label for family in _read(granted, result)))


def _read(granted: list[Family], result: QueryResult) -> list[Family]:
    names = {source.family for source in result.sources}
    return [family for family in granted if family.name in names]


def _document(result: QueryResult) -> Json:
    return {
        "columns": list(result.columns),
        "rows": [list(row) for row in result.rows],
        "truncated": result.truncated,
        "sources": [asdict(source) for source in result.sources],
        "derivation": {column: list(origins) for column, origins in result.derivation.items()},
    }
