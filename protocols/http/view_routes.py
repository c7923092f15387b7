"""Routes that serve the read models of :mod:`agentsys.views`, without what labels keep from the reader."""

from __future__ import annotations

from typing import Annotated, Final, TypeVar

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import TypeAdapter

from agentsys.protocols.http.board_routes import Limit, Name, OptionalName, OptionalSeq
from agentsys.protocols.http.callers import Calling, SeenBoards
from agentsys.protocols.http.errors import NotFound
from agentsys.protocols.http.run_routes import RunId
from agentsys.protocols.http.schemas import MAX_NUMBER, NO_NUL
from agentsys.protocols.principals import Caller
from agentsys.views.commit_list import CommitRow, CommitView, find_commit, newest_commits
from agentsys.views.conflicts import ConflictView, newest_conflicts
from agentsys.views.entries import EntryList, EntryView, list_entries, list_versions
from agentsys.views.provenance import Provenance, load_provenance
from agentsys.views.run_graph import RunGraph, load_graph
from agentsys.views.run_list import RunFilter, RunList, RunState, newest_runs
from agentsys.views.run_view import RunView, load_run
from agentsys.views.why import StepRow, Why, list_steps, load_why
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

STEPS: Final = TypeAdapter(tuple[StepRow, ...])
WHY: Final = TypeAdapter(Why)

Version = Annotated[int | None, Query(ge=1, le=MAX_NUMBER)]
Search = Annotated[str, Query(max_length=200)]


def view_router(boards: SeenBoards) -> APIRouter:
    """Return the routes under ``/views``."""
    router = APIRouter(prefix="/views", tags=["views"])
    _add_runs(router, boards)
    _add_board(router, boards)
    return router


def _add_runs(router: APIRouter, boards: SeenBoards) -> None:
    @router.get("/runs", response_model=RunList)
    def runs(
        caller: Calling,
        status: RunState | None = None,
        workflow: OptionalName = None,
        search: Search = "",
        limit: Limit = 50,
    ) -> Response:
        """List runs for people, the newest first; ``waiting`` are running ones that wait for a person."""
        wanted = RunFilter(status, workflow, search)
        return answer(newest_runs(boards.of(caller), limit, wanted, reader=caller.principal), RUN_LIST, caller)

    @router.get("/runs/{run}", response_model=RunView)
    def run(caller: Calling, run: RunId) -> Response:
        """Return everything recorded of one run: rounds, bids, decisions, calls, the answer and its sources."""
        return answer(load_run(boards.of(caller), run), RUN, caller)

    @router.get("/runs/{run}/steps", response_model=tuple[StepRow, ...])
    def steps(caller: Calling, run: RunId) -> Response:
        """List the steps of a run, and what was decided about each."""
        return answer(list_steps(boards.of(caller), run), STEPS, caller)

    @router.get("/runs/{run}/why", response_model=Why)
    def why(caller: Calling, run: RunId, step: Name) -> Response:
        """Return why a step came out as it did: the rule, the labels, and where each of them came from."""
        return answer(load_why(boards.of(caller), run, step), WHY, caller)

    @router.get("/runs/{run}/graph", response_model=RunGraph)
    def graph(caller: Calling, run: RunId, at: OptionalSeq = None) -> Response:
        """Return a run as a graph, now or as it was after commit ``at``."""
        return answer(load_graph(boards.of(caller), run, at), GRAPH, caller)


def _add_board(router: APIRouter, boards: SeenBoards) -> None:
    @router.get("/commits", response_model=tuple[CommitRow, ...])
    def commits(
        caller: Calling, run: OptionalName = None, before: OptionalSeq = None, search: Search = "", limit: Limit = 200
    ) -> Response:
        """List commits for people, the newest first."""
        return answer(
            newest_commits(boards.of(caller), limit, run, before=before, search=search, reader=caller.principal),
            COMMITS,
            caller,
        )

    @router.get("/commits/{seq}", response_model=CommitView)
    def commit(caller: Calling, seq: Annotated[int, Path(ge=1, le=MAX_NUMBER)]) -> Response:
        """Return one commit with all that it wrote."""
        found = find_commit(boards.of(caller), seq)
        if found is None:
            raise NotFound(f"The board has commits 1 to {boards.of(caller).head}, not {seq}.")
        return answer(found, COMMIT, caller)

    @router.get("/conflicts", response_model=tuple[ConflictView, ...])
    def conflicts(caller: Calling, run: OptionalName = None, at: OptionalSeq = None, limit: Limit = 200) -> Response:
        """List transactions that lost a conflict, the newest first."""
        return answer(newest_conflicts(boards.of(caller), limit, run, at), CONFLICTS, caller)

    @router.get("/entries", response_model=EntryList)
    def entries(
        caller: Calling,
        prefix: Annotated[str, Query(max_length=1024, pattern=NO_NUL)] = "",
        run: OptionalName = None,
        at: OptionalSeq = None,
        search: Search = "",
        limit: Limit = 200,
    ) -> Response:
        """List entries whose topic begins with ``prefix``, now or as they were after commit ``at``."""
        return answer(
            list_entries(
                boards.of(caller), caller.principal, prefix=prefix, run=run, at=at, search=search, limit=limit
            ),
            ENTRIES,
            caller,
        )

    @router.get("/provenance", response_model=Provenance)
    def provenance(caller: Calling, topic: Name, key: Name, version: Version = None) -> Response:
        """Return where one version of an entry came from, by default the newest, and what it shaped in its run."""
        found = load_provenance(boards.of(caller), topic, key, version)
        if found is None:
            raise NotFound("The board has no such version of an entry.")
        return answer(found, PROVENANCE, caller)

    @router.get("/versions", response_model=tuple[EntryView, ...])
    def versions(caller: Calling, topic: Name, key: Name) -> Response:
        """List the versions of one entry, the oldest first, deletions included."""
        return answer(list_versions(boards.of(caller), topic, key), VERSIONS, caller)


def answer(view: D, form: TypeAdapter[D], caller: Caller) -> Response:
    """Return a view as JSON in its ``form``, without what its labels keep from the ``caller``."""
    return Response(form.dump_json(withhold(view, caller.principal)), media_type="application/json")
