"""The command line: the one place that composes all floors, importing them inside commands."""

from __future__ import annotations

from typing import Annotated

import typer

from agentsys.cli import ask, bench, board, config, doctor, models, run
from agentsys.cli.output import out

app = typer.Typer(
    name="agentsys",
    help="Run teams of LLM agents over one shared, labelled, transactional blackboard.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("ask")(ask.ask)
app.command("run")(run.run)
app.command("replay")(run.replay)
app.command("doctor")(doctor.doctor)
app.command("bench")(bench.bench)
app.add_typer(models.app, name="models")
app.add_typer(board.app, name="board")
app.add_typer(config.app, name="config")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        out.print(version("agentsys-runtime"), highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Run teams of LLM agents over one shared, labelled, transactional blackboard."""


def main() -> None:
    """Entry point of the ``agentsys`` script."""
    app()
