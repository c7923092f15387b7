"""How commands speak: data on stdout, progress and errors on stderr, one exit code for each kind of end."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from agentsys.errors import AgentsysError, ConfigurationError, LabelError

if TYPE_CHECKING:
    from agentsys.protocols.http.schemas import RunDocument
    from agentsys.runs import RunResult

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of a table.")]

AlwaysJsonOption = Annotated[bool, typer.Option("--json", help="Tell errors in JSON, too; what is printed is JSON.")]

DENIALS = "AGS-03"
SHOWN_TEXT: Final = 100

_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class _Told(Console):
    """Shows control characters of texts by their codes: what is said quotes files, tools, servers and agents.

    What goes from stdout to a file or another program is data, and stays as it is.
    """

    @property
    def _is_for_people(self) -> bool:
        return self.stderr or self.is_terminal

    def print(self, *objects: Any, **options: Any) -> None:
        shown = (without_controls(one) if isinstance(one, str) and self._is_for_people else one for one in objects)
        super().print(*shown, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            is_text = self._is_for_people and not segment.control
            yield Segment(without_controls(segment.text), segment.style) if is_text else segment


# Without emoji: they would take the place of what stands between two colons, as in a key.
out = _Told(soft_wrap=True, emoji=False)
err = _Told(stderr=True, soft_wrap=True, emoji=False)


class ExitCode(IntEnum):
    """What the process returns."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    WAITING = 4
    INTERRUPTED = 130


def exit_code_of_run(result: RunResult | RunDocument) -> ExitCode:
    """Return how a run ended: a denial by label or policy (AGS-03xx) is told from other failures."""
    if result.status == "done":
        return ExitCode.DONE
    denied = result.failure is not None and result.failure.code.startswith(DENIALS)
    return ExitCode.REFUSED if denied else ExitCode.FAILED


def exit_code_of(error: AgentsysError) -> ExitCode:
    """Map an error to the documented exit code."""
    if isinstance(error, ConfigurationError):
        return ExitCode.USAGE
    if isinstance(error, LabelError):
        return ExitCode.REFUSED
    return ExitCode.FAILED


def print_json(data: Any) -> None:
    """Write ``data`` as one JSON document on stdout, at once: a command may go on, and its reader wait for this.

    JSON has no infinite numbers; ``null`` stands for one.
    """
    sys.stdout.write(json.dumps(_finite(data), indent=2, default=str, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    title: str | None = None,
    console: Console = out,
    cut: str | None = None,
) -> None:
    """Write a table, by default on stdout; cells are shown as they are, markup included, and control
    characters by their codes.

    On a terminal long cells are folded, those of the column ``cut`` end with the line. For a file or another program
    (``grep``) none is, unless ``COLUMNS`` says how wide it is.
    """
    table = Table(title=None if title is None else escape(title), title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        cells = zip(columns, map(_cell, row), strict=True)
        table.add_row(*(_line(text) if column == cut else escape(text) for column, text in cells))
    if not console.is_terminal and "COLUMNS" not in os.environ:
        table.width = console.measure(table, options=console.options.update(max_width=sys.maxsize)).maximum
    console.print(table)


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return "" if value is None else without_controls(str(value))


def shortened(text: str, most: int = SHOWN_TEXT) -> str:
    """Return ``text``, or its beginning with a sign that there is more."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def without_controls(text: str) -> str:
    """Return ``text`` with control characters by their codes: what others wrote must not steer the terminal."""
    return text.translate(_CONTROLS)


def json_flag(name: str, text: str) -> Any:
    """Read the JSON that was given with flag ``name``. Raises :class:`ConfigurationError`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{name} is no JSON: {error}.", remedy=f"Quote it: {name} '\"text\"'.") from error


def time_text(at: float) -> str:
    """Return a time in unix seconds as people here write it."""
    try:
        return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        # Who wants something kept for ever may have said so by a large number.
        return "after the year 9999"


def print_failure(result: RunResult) -> None:
    """Say on stderr why a run has no value."""
    failure = result.failure
    if failure is None:
        err.print(f"run {result.run} did not finish", highlight=False)
    else:
        print_error(f"run {result.run} failed", failure.code, failure.message, failure.remedy)


def print_error(what: str, code: str, message: str, remedy: str) -> None:
    """Say on stderr what went wrong, with its code, and what to do about it."""
    err.print(f"[bold red]{what}[/] [bold]{code}[/] {escape(message)}", highlight=False)
    if remedy:
        err.print(f"[dim]→ {escape(remedy)}[/]", highlight=False)


def _of_file(error: OSError) -> ConfigurationError:
    """Return what to say of a file that cannot be reached; of another fault of the system, raise that."""
    if error.filename is None:
        raise error
    return ConfigurationError(f"{error.filename}: {error.strerror}.", remedy="Check the path, and who may read it.")


@contextmanager
def reported_errors(*, as_json: bool = False, resumable: bool = False) -> Iterator[None]:
    """Turn an :class:`AgentsysError`, or a file that cannot be reached, into a message on stderr and an exit code.

    The message is JSON with ``--json``.
    """
    try:
        yield
    except (AgentsysError, OSError) as raised:
        error = raised if isinstance(raised, AgentsysError) else _of_file(raised)
        if as_json:
            sys.stderr.write(json.dumps({"error": error.to_json()}) + "\n")
        else:
            print_error("error", error.code, error.message, error.remedy)
        raise typer.Exit(exit_code_of(error)) from error
    except KeyboardInterrupt:
        err.print("interrupted; `--resume latest` goes on where a run stopped" if resumable else "interrupted")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
