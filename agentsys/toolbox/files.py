"""``query_files`` and ``describe_files``: SQL over a folder of data files, in the sandbox of the lake's queries."""

from __future__ import annotations

from typing import Final

from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import join_all
from agentsys.labelled import Labelled
from agentsys.lake.lake import Lake
from agentsys.lake.queries.plan import Plan
from agentsys.lake.queries.sandbox import SandboxLimits
from agentsys.lake.queries.schema_text import schema_text
from agentsys.lake.tools import answer_plan
from agentsys.tools import Tool, tool

QUERY_FILES: Final = "query_files"
DESCRIBE_FILES: Final = "describe_files"


def files_tools(lake: Lake, limits: SandboxLimits | None = None) -> list[Tool]:
    """Return the tools ``query_files`` and ``describe_files`` over all tables of a lake.

    A result carries the labels of the files that it was read from; the description and errors, those of all files.
    """
    bounds = limits or SandboxLimits()
    everything = join_all(family.label for family in lake.families)

    @tool(name=DESCRIBE_FILES, effect=EffectClass.PURE, source=everything)
    def describe_files(question: str = "") -> Json:
        """Describe the tables that ``query_files`` can read, and their columns, those nearest to the question first."""
        return schema_text(lake.families, question=question or None)

    @tool(name=QUERY_FILES, effect=EffectClass.PURE, source=everything, timeout=2 * bounds.seconds + 30)
    def query_files(sql: str) -> Labelled[Json]:
        """Run one DuckDB SELECT over the tables that ``describe_files`` names.

        The result is an object: ``columns``, ``rows``, ``truncated`` (whether there were more rows), ``sources`` (which
        files the rows came from) and ``derivation`` (which columns each column was computed from).
        """
        return answer_plan(Plan.parse(sql), lake.families, bounds)

    return [describe_files, query_files]
