"""What the benchmark reads of the MCP conformance suite's files."""

from __future__ import annotations

import json
from pathlib import Path

from agentsys.benchmarks.conformance import Outcome, outcomes_in, scored

REQUIREMENTS = """
# server: not this
server:
  - ping
  # a remark
  - tools-list

client:
  - initialize
not_scored:
  - scenario: later
    leg: server
"""


def test_the_scored_scenarios_are_those_of_the_server() -> None:
    assert scored(REQUIREMENTS) == ["ping", "tools-list"]


def test_a_scenario_passes_without_a_failure_and_with_a_success(tmp_path: Path) -> None:
    reports = {"good": ["SUCCESS", "INFO"], "bad": ["SUCCESS", "FAILURE"], "empty": ["SKIPPED"]}
    for name, statuses in reports.items():
        folder = tmp_path / f"server-{name}-2026-11-26T11-12-59-027Z"
        folder.mkdir()
        checks = [{"id": "check", "status": status, "errorMessage": None} for status in statuses]
        (folder / "checks.json").write_text(json.dumps(checks))
    found = outcomes_in(tmp_path)
    assert found["bad"] == Outcome("bad", 1, 1, "check")
    assert {name: outcome.passed for name, outcome in found.items()} == {"good": True, "bad": False, "empty": False}
