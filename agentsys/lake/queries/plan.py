"""A query plan: named SQL steps, each a single read-only SELECT over granted families and earlier steps."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentsys.lake.profiles import Family
from agentsys.lake.queries.allowlist import PlanSyntaxError, validate_statement

FILE_COLUMN: Final = "_file"
"""Column of every family view: the name of the file a row came from, without its folders."""

MAX_STEPS: Final = 16


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
        body = unfenced(text)
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
            validate_statement(step.sql, readable.values())
            readable[step.name.lower()] = step.name


def unfenced(text: str) -> str:
    """Return what a model wrote, without the fence of a block of code that it may have put around."""
    fenced = re.search(r"```[a-zA-Z]*\s*\n(.*?)```", text, re.DOTALL)
    return (fenced.group(1) if fenced else text).strip()
