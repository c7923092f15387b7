"""The argument ``RUN``, and what the shell offers for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from agentsys.cli.run_source import LATEST, BoardRuns, runs_at, server_or_board
from agentsys.cli.server_option import connected
from agentsys.errors import AgentsysError

if TYPE_CHECKING:
    from agentsys.protocols.http.client import RuntimeClient

Complete = Callable[[typer.Context, str], Iterable[tuple[str, str]]]
Place = Callable[[str | None, str | None, str | None], "AbstractContextManager[BoardRuns | RuntimeClient]"]

COMPLETIONS: Final = 50
LOOKED_AT: Final = 1000


def completed_run(context: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the newest runs."""
    return _completed(context, incomplete)


def completed_unfinished(context: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the newest runs that are not finished."""
    return _completed(context, incomplete, "running")


def completed_of_server(context: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the newest runs of the server, for a command that asks no board."""
    return _completed(context, incomplete, place=lambda _, url, token: connected(url, token))


def completed_of_either(context: typer.Context, incomplete: str) -> Iterable[tuple[str, str]]:
    """Complete the newest runs of the server, or of the board where that is asked."""
    return _completed(context, incomplete, place=server_or_board)


def _completed(
    context: typer.Context, incomplete: str, status: str | None = None, place: Place = runs_at
) -> list[tuple[str, str]]:
    try:
        with place(*(context.params.get(name) for name in ("board", "url", "token"))) as asked:
            found = asked.runs(status=status, limit=LOOKED_AT)
    except AgentsysError:
        return []
    return [(one.run, one.workflow) for one in found if one.run.startswith(incomplete)][:COMPLETIONS]


def _argument(complete: Complete, help: str) -> Any:
    return typer.Argument(metavar="RUN", help=help, autocompletion=complete)


_OR_LATEST: Final = f"The run, or `{LATEST}`: the newest."

RunOrLatestArgument = Annotated[str, _argument(completed_run, _OR_LATEST)]
AnyRunOrLatestArgument = Annotated[str, _argument(completed_of_either, _OR_LATEST)]
ServerRunOrLatestArgument = Annotated[str, _argument(completed_of_server, _OR_LATEST)]
