"""Writes docs/errors.md from the error classes: `python docs/generate_errors.py`."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from pathlib import Path

import agentsys
from agentsys.errors import AgentsysError

HEADER = """# Error codes

Every error that agentsys raises on purpose is an `AgentsysError` with a stable code, a message that names the value and
the cause, and a remedy. With `--json`, commands print them on stderr as `{"error": {"code", "type", "message", "remedy"}}`.

This page is written by `make docs` from the classes themselves.
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


def section(kind: type[AgentsysError]) -> str:
    """Return one error's part of the page."""
    parent = kind.__mro__[1]
    family = f" (a `{parent.__name__}`)" if issubclass(parent, AgentsysError) else ""
    home = kind.__module__
    return f"### {kind.code} {kind.__name__}\n\n`{home}`{family}. {inspect.getdoc(kind)}\n\n**Remedy.** {kind.remedy}\n"


def page() -> str:
    """Return the whole page."""
    return "\n".join([HEADER, *map(section, every_error())])


if __name__ == "__main__":
    (Path(__file__).parent / "errors.md").write_text(page(), encoding="utf-8")
