"""Routes that serve the read models of :mod:`agentsys.views`, without what labels keep from the reader."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import TypeAdapter

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import OWNER
from agentsys.protocols.http.board_routes import Limit, Name, OptionalName, OptionalSeq
from agentsys.protocols.http.errors import NotFound
from agentsys.protocols.http.run_routes import RunId
from agentsys.protocols.http.schemas import MAX_NUMBER
from agentsys.views.commit_list import CommitRow, CommitView, find_commit, newest_commits
from agentsys.views.conflicts import ConflictView, newest_conflicts
from agentsys.views.entries import EntryList, EntryView, list_entries, list_versions
from agentsys.views.provenance import Provenance, load_provenance
from agentsys.views.run_graph import RunGraph, load_graph
from agentsys.views.run_list import RunFilter, RunList, RunState, newest_runs
from agentsys.views.run_view import RunView, load_run
from agentsys.views.withholding import withhold

D = TypeVar("D")

RUN_LIST: Final = TypeAdapter(RunList)
RUN: Final = TypeAdapter(RunView)
GRAPH: Final = TypeAdapter(RunGraph)
COMMITS: Final = TypeAdapter(tuple[CommitRow, ...])
COMMIT: Final = TypeAdapter(CommitView)
CONFLICTS: Final = TypeAdapter(tuple[ConflictView, ...])
ENTRIES: Final = TypeAdapter(EntryList)
PROVENANCE: Final = TypeAdapter(Provenance)
VERSIONS: Final = TypeAdapter(tuple[EntryView, ...])

Version = Annotated[int | None, Query(ge=1, le=MAX_NUMBER)]
Search = Annotated[str, Query(max_length=200)]


def view_router(board: Board, reader: str = OWNER) -> APIRouter:
    """Return the routes under ``/views``, answering ``reader``."""
    router = APIRouter(prefix="/views", tags=["views"])
    _add_runs(router, board, reader)
    _add_board(router, board, reader)
    return router


def _add_runs(router: APIRouter, board: Board, reader: str) -> None:
    @router.get("/runs", response_model=RunList)
    def runs(
        status: RunState | None = None, workflow: OptionalName = None, search: Search = "", limit: Limit = 50
    ) -> Response:
        """List runs for people, the newest first; ``waiting`` are running ones that wait for a person."""
        wanted = RunFilter(status, workflow, search)
        return answer(newest_runs(board, limit, wanted, reader=reader), RUN_LIST, reader)

    @router.get("/runs/{run}", response_model=RunView)
    def run(run: RunId) -> Response:
        """Return everything recorded of one run: rounds, bids, decisions, calls, the answer and its sources."""
        return answer(load_run(board, run), RUN, reader)

    @router.get("/runs/{run}/graph", response_model=RunGraph)
    def graph(run: RunId, at: OptionalSeq = None) -> Response:
        """Return a run as a graph, now or as it was after commit ``at``."""
        return answer(load_graph(board, run, at), GRAPH, reader)


def _add_board(router: APIRouter, board: Board, reader: str) -> None:
    @router.get("/commits", response_model=tuple[CommitRow, ...])
    def commits(
        run: OptionalName = None, before: OptionalSeq = None, search: Search = "", limit: Limit = 200
    ) -> Response:
        """List commits for people, the newest first."""
        return answer(newest_commits(board, limit, run, before=before, search=search, reader=reader), COMMITS, reader)

    @router.get("/commits/{seq}", response_model=CommitView)
    def commit(seq: Annotated[int, Path(ge=1, le=MAX_NUMBER)]) -> Response:
        """Return one commit with all that it wrote."""
        found = find_commit(board, seq)
        if found is None:
            raise NotFound(f"The board has commits 1 to {board.head}, not {seq}.")
        return answer(found, COMMIT, reader)

    @router.get("/conflicts", response_model=tuple[ConflictView, ...])
    def conflicts(run: OptionalName = None, at: OptionalSeq = None, limit: Limit = 200) -> Response:
        """List transactions that lost a conflict, the newest first."""
        return answer(newest_conflicts(board, limit, run, at), CONFLICTS, reader)

    @router.get("/entries", response_model=EntryList)
    def entries(
        prefix: Annotated[str, Query(max_length=1024)] = "",
        run: OptionalName = None,
        at: OptionalSeq = None,
        search: Search = "",
        limit: Limit = 200,
    ) -> Response:
        """List entries whose topic begins with ``prefix``, now or as they were after commit ``at``."""
        return answer(
            list_entries(board, reader, prefix=prefix, run=run, at=at, search=search, limit=limit), ENTRIES, reader
        )

    @router.get("/provenance", response_model=Provenance)
    def provenance(topic: Name, key: Name, version: Version = None) -> Response:
        """Return where one version of an entry came from, by default the newest, and what it shaped in its run."""
        found = load_provenance(board, topic, key, version)
        if found is None:
            raise NotFound("The board has no such version of an entry.")
        return answer(found, PROVENANCE, reader)

    @router.get("/versions", response_model=tuple[EntryView, ...])
    def versions(topic: Name, key: Name) -> Response:
        """List the versions of one entry, the oldest first, deletions included."""
        return answer(list_versions(board, topic, key), VERSIONS, reader)


def answer(view: D, form: TypeAdapter[D], reader: str) -> Response:
    """Return a view as JSON in its ``form``, without what its labels keep from ``reader``."""
    return Response(form.dump_json(withhold(view, reader)), media_type="application/json")
