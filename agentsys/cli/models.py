"""``agentsys models``: fetch, list and serve models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from agentsys.cli.model_fleet import launch, load, ps, unload
from agentsys.cli.model_server import serve
from agentsys.cli.output import JsonOption, err, out, print_json, print_table, reported_errors
from agentsys.settings import load_settings

if TYPE_CHECKING:
    from agentsys.serving.weights.progress import PullProgress

app = typer.Typer(help="Fetch, list and serve models.", no_args_is_help=True)

app.command("serve")(serve)
app.command("launch")(launch)
app.command("ps")(ps)
app.command("load")(load)
app.command("unload")(unload)

STAGES = {"resolve": "asking the index", "download": "downloading", "convert": "converting", "ready": "ready"}


@app.command("pull")
def pull(
    source: Annotated[
        str | None,
        typer.Argument(help="A catalogue name, a Hugging Face id, a folder or a .gguf file; default: model.name."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fetch a model once into the cache; an interrupted download goes on where it stopped."""
    with reported_errors(as_json=as_json):
        from agentsys.serving.weights.pull import pull as pull_weights

        settings = load_settings().settings
        wanted = source or settings.model.name
        with _ProgressBar(wanted) as bar:
            folder = pull_weights(wanted, progress=bar.update, directory=settings.models_dir)
    if as_json:
        print_json({"model": wanted, "path": str(folder)})
    else:
        out.print(f"{wanted} is at {folder}", highlight=False)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the models of the cache and those that `pull` knows by name."""
    with reported_errors(as_json=as_json):
        from agentsys.serving.weights.cache import describe, list_models
        from agentsys.serving.weights.catalogue import CATALOGUE

        pulled = [describe(model) for model in list_models(load_settings().settings.models_dir)]
    known = [name for name in CATALOGUE if name not in {model["name"] for model in pulled}]
    if as_json:
        print_json({"pulled": pulled, "known": known})
        return
    rows = [[model["name"], f"{int(model['size_bytes']) / 1e6:.0f} MB", model["source"]] for model in pulled]
    print_table(["model", "size", "from"], rows + [[name, "not pulled", CATALOGUE[name].title] for name in known])


class _ProgressBar:
    """A bar on stderr that follows the stages of a pull; silent where stderr is no terminal."""

    def __init__(self, title: str) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not err.is_terminal,
        )
        self._title = title
        self._task: TaskID | None = None

    def __enter__(self) -> _ProgressBar:
        self._bar.start()
        self._task = self._bar.add_task(self._title, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, progress: PullProgress) -> None:
        """Show one step of the pull."""
        assert self._task is not None
        self._bar.update(
            self._task,
            description=f"{self._title}: {STAGES[progress.stage]}",
            completed=progress.done,
            total=progress.total,
        )
