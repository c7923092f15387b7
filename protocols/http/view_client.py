"""The read models of one board, over HTTP."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar
from urllib.parse import quote

from agentsys.protocols.http.schemas import BoardDocument
from agentsys.views.commit_list import CommitRow, CommitView
from agentsys.views.conflicts import ConflictView
from agentsys.views.entries import EntryList, EntryView
from agentsys.views.provenance import Provenance
from agentsys.views.run_graph import RunGraph
from agentsys.views.run_list import RunList, RunState
from agentsys.views.run_view import RunView
from agentsys.views.why import StepRow, Why

D = TypeVar("D")


class Get(Protocol):
    """Fetches a path below the API's prefix as a ``shape``."""

    def __call__(self, path: str, shape: type[D], **parameters: Any) -> D: ...


class ViewClient:
    """Reads what is below ``prefix``: the server's own board, or a recorded one."""

    def __init__(self, get: Get, prefix: str = "") -> None:
        self._get = get
        self._prefix = prefix

    def board(self) -> BoardDocument:
        """Return how the board stands: views change only with its head."""
        return self._get(f"{self._prefix}/board", BoardDocument)

    def runs(
        self, *, status: RunState | None = None, workflow: str | None = None, search: str = "", limit: int = 50
    ) -> RunList:
        """Return runs, the newest first."""
        return self._view("runs", RunList, status=status, workflow=workflow, search=search, limit=limit)

    def run(self, run: str) -> RunView:
        """Return everything recorded of one run."""
        return self._view(f"runs/{segment(run)}", RunView)

    def graph(self, run: str, at: int | None = None) -> RunGraph:
        """Return a run as a graph, now or as it was after commit ``at``."""
        return self._view(f"runs/{segment(run)}/graph", RunGraph, at=at)

    def steps(self, run: str) -> tuple[StepRow, ...]:
        """Return the steps of a run, and what was decided about each."""
        return self._view(f"runs/{segment(run)}/steps", tuple[StepRow, ...])

    def why(self, run: str, step: str) -> Why:
        """Return why a step came out as it did."""
        return self._view(f"runs/{segment(run)}/why", Why, step=step)

    def commits(
        self, *, run: str | None = None, before: int | None = None, search: str = "", limit: int = 200
    ) -> tuple[CommitRow, ...]:
        """Return commits, the newest first."""
        return self._view("commits", tuple[CommitRow, ...], run=run, before=before, search=search, limit=limit)

    def commit(self, seq: int) -> CommitView:
        """Return one commit with all that it wrote."""
        return self._view(f"commits/{seq}", CommitView)

    def conflicts(self, *, run: str | None = None, at: int | None = None, limit: int = 200) -> tuple[ConflictView, ...]:
        """Return transactions that lost a conflict, the newest first."""
        return self._view("conflicts", tuple[ConflictView, ...], run=run, at=at, limit=limit)

    def entries(
        self,
        *,
        prefix: str = "",
        run: str | None = None,
        at: int | None = None,
        search: str = "",
        limit: int = 200,
    ) -> EntryList:
        """Return entries by topic and key, now or as they were after commit ``at``."""
        return self._view("entries", EntryList, prefix=prefix, run=run, at=at, search=search, limit=limit)

    def provenance(self, topic: str, key: str, version: int | None = None) -> Provenance:
        """Return where one version of an entry came from, by default the newest, and what it shaped in its run."""
        return self._view("provenance", Provenance, topic=topic, key=key, version=version)

    def versions(self, topic: str, key: str) -> tuple[EntryView, ...]:
        """Return the versions of one entry, the oldest first."""
        return self._view("versions", tuple[EntryView, ...], topic=topic, key=key)

    def _view(self, path: str, shape: type[D], **parameters: Any) -> D:
        return self._get(f"{self._prefix}/views/{path}", shape, **parameters)


def segment(name: str) -> str:
    """Return a name as one segment of a path."""
    return quote(name, safe="")
