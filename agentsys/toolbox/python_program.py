"""The process that runs a model's Python: ``{"code", "files"}`` on standard input, a JSON object on standard output.

A program of its own, run by its path behind the walls of :mod:`agentsys.containment`; it imports the standard library
alone. What the code prints goes to standard error, so that it and the answer do not mix. The code can forge the answer:
it is the code's either way.
"""

from __future__ import annotations

import ast
import json
import os
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NAME = "<code>"
MOST_BITS = 13_000
"""Of a number in JSON: longer ones no reader takes, and so they are written as text."""


def main() -> None:
    """Entry point."""
    request = json.loads(sys.stdin.buffer.read())
    answer = os.dup(1)
    os.dup2(2, 1)
    for name, text in request["files"].items():
        Path(name).write_text(text, encoding="utf-8")
    outcome = run(request["code"])
    sys.stdout.flush()
    sys.stderr.flush()
    with os.fdopen(answer, "w", encoding="utf-8") as pipe:
        pipe.write(json.dumps(outcome))


def run(code: str) -> dict[str, Any]:
    """Run statements; return the value of the last one if it is an expression, and the error that ended them."""
    scope: dict[str, Any] = {"__name__": "__main__"}
    try:
        tree = ast.parse(code, _NAME)
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, _NAME, "exec"), scope)  # noqa: S102 - the point of this program
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), _NAME, "eval"), scope)  # noqa: S307
        return {"value": plain(value), "error": None}
    except BaseException as error:
        return {"value": None, "error": _said(error)}


def plain(value: Any) -> Any:
    """Return a value as JSON: arrays and tables as lists, what has no such form as its ``repr``."""
    if isinstance(value, float):
        return value if value == value and value not in (float("inf"), float("-inf")) else None
    if isinstance(value, int) and value.bit_length() > MOST_BITS:
        sys.set_int_max_str_digits(0)
        return str(value)
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Mapping):
        items = {_text(str(key)): plain(item) for key, item in value.items()}
        # Of keys that are one as texts, such as 1 and '1', JSON would keep the last.
        return items if len(items) == len(value) else _text(repr(value))
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    for form in ("tolist", "to_dict", "isoformat"):
        if callable(getattr(value, form, None)):
            return plain(getattr(value, form)())
    return _text(repr(value))


def _text(value: str) -> str:
    """Return a text with the characters that no file can hold, halves of others, written as escapes."""
    return value.encode("utf-8", "backslashreplace").decode()


def _said(error: BaseException) -> str:
    """Return a traceback that begins with the code, not with this program."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == _NAME]
    lines = ["Traceback (most recent call last):\n", *traceback.format_list(own)] if own else []
    return _text("".join([*lines, *traceback.format_exception_only(type(error), error)]).strip())


if __name__ == "__main__":
    main()
