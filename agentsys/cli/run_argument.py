"""The argument ``RUN``, and what the shell offers for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final

import typer

from agentsys.cli.run_source import LATEST, runs_at
from agentsys.errors import AgentsysError

COMPLETIONS: Final = 50
LOOKED_AT: Final = 1000


def completed_run(context: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the newest runs."""
    return _completed(context, incomplete)


def completed_unfinished(context: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the newest runs that are not finished."""
    return _completed(context, incomplete, "running")


def _completed(context: typer.Context, incomplete: str, status: str | None = None) -> list[tuple[str, str]]:
    try:
        with runs_at(*(context.params.get(name) for name in ("board", "url", "token"))) as place:
            found = place.runs(status=status, limit=LOOKED_AT)
    except AgentsysError:
        return []
    return [(one.run, one.workflow) for one in found if one.run.startswith(incomplete)][:COMPLETIONS]


RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="The run.", autocompletion=completed_run)]
RunOrLatestArgument = Annotated[
    str, typer.Argument(metavar="RUN", help=f"The run, or `{LATEST}`: the newest.", autocompletion=completed_run)
]
