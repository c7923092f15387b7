"""Lengths of files and functions, and import circles, of the package itself."""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from agentsys.benchmarks.harness import Bar, BenchResult, Options

PACKAGE = Path(__file__).resolve().parent.parent / "agentsys"
FILE_LINES = 400
FUNCTION_LINES = 35


@dataclass(frozen=True, slots=True)
class Module:
    """One source file, parsed."""

    name: str
    path: Path
    tree: ast.Module
    lines: int


def modules(package: Path = PACKAGE) -> list[Module]:
    """Parse every module of the package, following its linked subpackages."""
    found = []
    for path in sorted(_python_files(package)):
        relative = path.relative_to(package.parent).with_suffix("")
        parts = relative.parts[:-1] if relative.name == "__init__" else relative.parts
        text = path.read_text(encoding="utf-8")
        found.append(Module(".".join(parts), path, ast.parse(text), text.count("\n")))
    return found


def _python_files(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name != "__pycache__":
            yield from _python_files(entry)
        elif entry.suffix == ".py":
            yield entry


def function_lengths(module: Module) -> list[tuple[str, int]]:
    """Return ``(qualified name, lines)`` of each function."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [
        (f"{module.name}.{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(module.tree)
        if isinstance(node, kinds)
    ]


def import_circle(parsed: list[Module]) -> list[str]:
    """Return the modules of one circle of import-time imports, or an empty list.

    Imports inside functions and under ``TYPE_CHECKING`` do not run at import time and do not count.
    """
    names = {module.name for module in parsed}
    graph = {module.name: set(_imported(module.tree.body, names)) - {module.name} for module in parsed}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _imported(body: list[ast.stmt], names: set[str]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in names or node.module in names:
                    yield inner if inner in names else node.module
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            yield from _imported(node.body + node.orelse, names)


def percentile_90(values: list[int]) -> float:
    """Return the 90th percentile (nearest of 10 quantiles)."""
    return statistics.quantiles(values, n=10)[-1]


def main(options: Options) -> BenchResult:
    """Measure the package; the bars are the project's own style rules."""
    parsed = modules()
    files = [(module.name, module.lines) for module in parsed]
    functions = [item for module in parsed for item in function_lengths(module)]
    circle = import_circle(parsed)
    file_90 = percentile_90([lines for _, lines in files])
    function_90 = percentile_90([lines for _, lines in functions])
    longest = sorted(files, key=lambda item: -item[1])[:5] + sorted(functions, key=lambda item: -item[1])[:5]
    return BenchResult(
        name="structure",
        figure=f"p90 of {len(files)} files {file_90:.0f} lines, of {len(functions)} functions {function_90:.0f} lines",
        columns=["longest", "lines"],
        rows=[list(item) for item in longest],
        bars=[
            Bar("p90 of file length", file_90, FILE_LINES, at_least=False),
            Bar("p90 of function length", function_90, FUNCTION_LINES, at_least=False),
            Bar("modules in an import circle", len(circle), 0, at_least=False),
        ],
        notes=[f"import circle: {' → '.join(circle)}"] if circle else [],
    )
