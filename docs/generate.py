"""Writes the pages that come from the code, errors.md, modules.md and cli.md: `make docs`."""

from __future__ import annotations

import ast
import html
import importlib
import inspect
import pkgutil
from pathlib import Path

import typer.main
from typer.cli import get_docs_for_click
from typer.core import TyperGroup

import agentsys
from agentsys.cli.app import app
from agentsys.errors import AgentsysError

DOCS = Path(__file__).resolve().parent
ROOMS = (
    ("agentsys/blackboard", "blackboard"),
    ("agentsys/containment", "containment"),
    ("agentsys/serving", "serving"),
    ("agentsys", "agentsys"),
    ("agentsys/langgraph", "langgraph"),
    ("agentsys/lake", "lake"),
    ("agentsys/toolbox", "toolbox"),
    ("agentsys/views", "views"),
    ("agentsys/protocols", "protocols"),
    ("agentsys/ui", "ui"),
    ("agentsys/benchmarks", "benchmarks"),
    ("agentsys/cli", "cli"),
)
ERRORS = """# Error codes

Every error that agentsys raises on purpose is an `AgentsysError` with a stable code, a message that names the value
and the cause, and a remedy. With `--json`, commands print `{"error": {"code", "type", "message", "remedy"}}` on stderr.

This page is written by `make docs` from the classes themselves.
"""
MODULES = """# Modules

One line for each file, by floor. This page is written by `make docs` from the files' first lines.
"""


def every_error() -> list[type[AgentsysError]]:
    """Return all error classes of the package, ordered by code."""
    for module in pkgutil.walk_packages(agentsys.__path__, "agentsys."):
        importlib.import_module(module.name)
    found, queue = [], [AgentsysError]
    while queue:
        kind = queue.pop()
        found.append(kind)
        queue.extend(kind.__subclasses__())
    return sorted((kind for kind in found if kind.__module__.startswith("agentsys")), key=lambda kind: kind.code)


def errors_page() -> str:
    """Return docs/errors.md."""
    return "\n".join([ERRORS, *map(_error_section, every_error())])


def modules_page() -> str:
    """Return docs/modules.md."""
    return "\n".join([MODULES, *(_room_section(folder, title) for folder, title in ROOMS)])


def cli_page() -> str:
    """Return docs/cli.md."""
    command = typer.main.get_command(app)
    assert isinstance(command, TyperGroup)
    context = command.context_class(command, info_name="agentsys")
    reference = html.unescape(get_docs_for_click(obj=command, ctx=context, name="agentsys"))
    return f"<!-- Written by `make docs` from the commands themselves. -->\n{reference.strip()}\n"


def _error_section(kind: type[AgentsysError]) -> str:
    parent = kind.__mro__[1]
    family = f" (a `{parent.__name__}`)" if issubclass(parent, AgentsysError) else ""
    head = f"### {kind.code} {kind.__name__}\n\n`{kind.__module__}`{family}."
    return f"{head} {inspect.getdoc(kind)}\n\n**Remedy.** {kind.remedy}\n"


def _room_section(folder: str, title: str) -> str:
    root = DOCS.parent / folder
    # The core's own folder also holds the other rooms; of those, each lists itself.
    files = sorted(root.glob("*.py") if title == "agentsys" else root.rglob("*.py"))
    lines = [f"- `{path.relative_to(root)}`: {_first_line(path)}" for path in files if _first_line(path)]
    return f"## {title}\n\n" + "\n".join(lines) + "\n"


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.split("\n\n")[0].split())


if __name__ == "__main__":
    (DOCS / "errors.md").write_text(errors_page(), encoding="utf-8")
    (DOCS / "modules.md").write_text(modules_page(), encoding="utf-8")
    (DOCS / "cli.md").write_text(cli_page(), encoding="utf-8")
