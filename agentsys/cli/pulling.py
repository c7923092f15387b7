"""How far a pull is, on stderr: a bar in a terminal, else a line for each stage that takes long."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from agentsys.cli.output import err

if TYPE_CHECKING:
    from agentsys.serving.weights.progress import PullProgress

STAGES = {"resolve": "asking the index", "download": "downloading", "convert": "converting", "ready": "ready"}
LONG = ("download", "convert")
"""The stages that are told where no bar is drawn."""


class PullBar:
    """Follows the stages of a pull."""

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
        self._told = ""

    def __enter__(self) -> PullBar:
        self._bar.start()
        self._task = self._bar.add_task(self._title, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, progress: PullProgress) -> None:
        """Show one step of the pull."""
        assert self._task is not None
        told = f"{self._title}: {STAGES[progress.stage]}"
        self._bar.update(self._task, description=told, completed=progress.done, total=progress.total)
        if not err.is_terminal and progress.stage in LONG and told != self._told:
            err.print(told, highlight=False, markup=False)
        self._told = told
