"""What several commands need: settings under flags, and a lake opened with a progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from agentsys.cli.output import err
from agentsys.settings import Settings, load_settings

if TYPE_CHECKING:
    from agentsys.lake.lake import Lake


def settings_with(**flags: Any) -> Settings:
    """Load settings under the flags given; ``model_name`` stands for ``model.name``."""
    return load_settings({name.replace("_", ".", 1): value for name, value in flags.items()}).settings


def open_lake(lake: str, settings: Settings) -> Lake:
    """Open ``--lake`` with a progress bar on stderr, naming there the files that were skipped."""
    from agentsys.lake.lake import Lake
    from agentsys.lake.local import lake_folder
    from agentsys.lake.profiles import LakeProgress

    bar = Progress(
        TextColumn("reading {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )
    with bar:
        task = bar.add_task(lake, total=None)

        def show(progress: LakeProgress) -> None:
            bar.update(task, description=progress.current, completed=progress.done, total=progress.total)

        opened = Lake.open(lake_folder(lake), cache=settings.lake.cache, progress=show)
    for skipped in opened.skipped:
        err.print(f"skipped {skipped.path}: {skipped.code} {skipped.reason}", highlight=False, markup=False)
    return opened
