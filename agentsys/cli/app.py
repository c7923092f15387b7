"""The command line: the one place that composes all floors, importing them inside commands."""

from __future__ import annotations

from typing import Annotated

import typer

from agentsys.cli import approvals, board, config, effects, mcp, memo, models, policy, principals, runs, secrets, tools
from agentsys.cli.ask import ask
from agentsys.cli.bench import bench
from agentsys.cli.console import console
from agentsys.cli.doctor import doctor
from agentsys.cli.examples import examples
from agentsys.cli.output import out
from agentsys.cli.policy_search import evolve, tune
from agentsys.cli.replay import replay
from agentsys.cli.run import run
from agentsys.cli.serve import serve
from agentsys.cli.startup import spare_the_collector
from agentsys.cli.why import why
from agentsys.cli.work import work

app = typer.Typer(
    name="agentsys",
    help="Run teams of LLM agents over one shared, labelled, transactional blackboard.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)
app.command(
    "ask",
    epilog=examples(
        'agentsys ask --lake data "How many ships sailed in 1900?"',
        "agentsys ask --lake data --questions questions.json --json",
        "agentsys ask --resume latest",
    ),
)(ask)
app.command(
    "run",
    epilog=examples(
        "agentsys run team.py --input '\"Ada\"'",
        "agentsys run team.py --resume latest",
        "agentsys run team.py --enqueue",
    ),
)(run)
app.command(
    "serve",
    epilog=examples(
        "agentsys serve team.py --port 8700 --mcp --a2a",
        "agentsys serve --lake data",
        "agentsys serve team.py --mcp --stdio",
    ),
)(serve)
app.command(
    "work",
    epilog=examples(
        "agentsys work team.py",
        "agentsys work team.py --drain",
    ),
)(work)
app.command(
    "replay",
    epilog=examples(
        "agentsys replay latest",
    ),
)(replay)
app.command(
    "why",
    epilog=examples(
        "agentsys why latest",
        "agentsys why latest 0",
    ),
)(why)
app.command("doctor")(doctor)
app.command(
    "bench",
    epilog=examples(
        "agentsys bench list",
        "agentsys bench demo --quick",
        "agentsys bench compare before.json after.json",
    ),
)(bench)
app.command("tune")(tune)
app.command("evolve")(evolve)
app.command(
    "console",
    epilog=examples(
        "agentsys console --lake data",
        "agentsys console team.py",
        "agentsys console --url https://agents.example.org",
    ),
)(console)
app.add_typer(runs.app, name="runs")
app.add_typer(approvals.app, name="approvals")
app.add_typer(policy.app, name="policy")
app.add_typer(effects.app, name="effects")
app.add_typer(models.app, name="models")
app.add_typer(board.app, name="board")
app.add_typer(memo.app, name="memo")
app.add_typer(mcp.app, name="mcp")
app.add_typer(tools.app, name="tools")
app.add_typer(secrets.app, name="secrets")
app.add_typer(principals.app, name="principals")
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
    spare_the_collector()
    app()
