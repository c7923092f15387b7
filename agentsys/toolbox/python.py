"""``run_python``: code that a model wrote, run in containment."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import NOBODY, Label
from agentsys.containment.limits import MIB, Grants, Limits
from agentsys.containment.process import Outcome, run_contained
from agentsys.containment.walls import STRONG
from agentsys.toolbox import python_program
from agentsys.tools import Tool, ToolError, tool

RUN_PYTHON: Final = "run_python"
MAX_CODE_CHARACTERS: Final = 100_000
DEFAULT_LIMITS: Final = Limits(seconds=20, cpu_seconds=20, memory_bytes=1024 * MIB, output_bytes=256 * 1024)
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_. -]{0,99}")
_PROGRAM: Final = Path(python_program.__file__)
_STOPPED: Final = {
    "time": "it ran longer than {0.seconds:g} s",
    "computing": "it computed for more than {0.cpu_seconds:g} s",
    "output": "it printed more than {0.output_bytes} bytes",
    "disk": "it wrote more than {0.disk_bytes} bytes",
}


class BadProgram(ToolError):
    """What was given to be run cannot be: too long, or with files whose names are none."""

    code = "AGS-0645"
    remedy = "Shorten the code; name files by letters, digits, '_', '-', '.' and spaces alone."


def python_tool(
    *, readable: Sequence[Path] = (), source: Label | None = None, limits: Limits = DEFAULT_LIMITS, weak: bool = False
) -> Tool:
    """Return the tool ``run_python``.

    Programs may read ``readable``, whose content ``source`` labels: undeclared, it is shaped by anybody and the owner's
    to read. ``weak`` runs them also where this machine cannot hold all of
    :data:`~agentsys.containment.walls.STRONG`; otherwise a call is refused there.
    """
    if readable and source is None:
        source = Label()
    grants = Grants(readable=(*(path.resolve() for path in readable), _PROGRAM))

    @tool(
        name=RUN_PYTHON,
        effect=EffectClass.PURE,
        consequential=False,
        audience=NOBODY,
        source=source,
        timeout=2 * limits.seconds + 30,
    )
    def run_python(code: str, files: dict[str, str] = {}) -> Json:  # noqa: B006 - never changed
        """Run Python code in a contained process: no network, no other process, an empty folder to work in.

        ``files`` are texts that are put there by name before. The result is an object: ``stdout``, what the code
        printed; ``value``, that of its last statement if it is an expression, as JSON; ``error``, the traceback or the
        limit that ended it, or null.
        """
        _check(code, files)
        outcome = run_contained(
            # Isolated: packages that are installed can be imported, nothing else.
            [sys.executable, "-I", str(_PROGRAM)],
            input=json.dumps({"code": code, "files": files}).encode(),
            limits=limits,
            grants=grants,
            require=() if weak else STRONG,
        )
        return _result(outcome, limits)

    return run_python


def _check(code: str, files: dict[str, str]) -> None:
    size = len(code) + sum(map(len, files.values()))
    if len(code) > MAX_CODE_CHARACTERS:
        raise BadProgram(f"The code has {len(code)} characters, more than {MAX_CODE_CHARACTERS}.")
    if size > 16 * MIB:
        raise BadProgram(f"Code and files have {size} characters, more than {16 * MIB}.")
    for name in files:
        if not _FILE_NAME.fullmatch(name):
            raise BadProgram(f"{name[:100]!r} is no name for a file.")


def _result(outcome: Outcome, limits: Limits) -> Json:
    printed = outcome.errors.decode("utf-8", "replace")
    if outcome.stopped:
        return {"stdout": printed, "value": None, "error": _STOPPED[outcome.stopped].format(limits)}
    try:
        answer: Any = json.loads(outcome.output)
        return {"stdout": printed, "value": answer["value"], "error": answer["error"]}
    except (ValueError, KeyError, TypeError, RecursionError):
        # Killed for memory that its libraries asked for, or by itself.
        return {"stdout": printed, "value": None, "error": f"it ended with status {outcome.status}, without a value"}
