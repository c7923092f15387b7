"""Routes for what waits for a person's word."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Path, Query
from fastapi.responses import Response
from pydantic import TypeAdapter

from agentsys.approvals import Approval, ApprovalStatus, list_approvals
from agentsys.deciding import Verdict
from agentsys.protocols.http.approval_schemas import Approve, Escalate, Modify, Refuse
from agentsys.protocols.http.callers import Calling, SeenBoards
from agentsys.protocols.http.schemas import NO_NUL
from agentsys.protocols.http.view_routes import answer
from agentsys.protocols.principals import Caller
from agentsys.runtime import Runtime
from agentsys.views.approvals import ApprovalView, approval_view

ApprovalId = Annotated[str, Path(min_length=1, max_length=200, pattern=NO_NUL)]

APPROVAL: Final = TypeAdapter(ApprovalView)
APPROVALS: Final = TypeAdapter(tuple[ApprovalView, ...])


def approval_router(runtime: Runtime, boards: SeenBoards) -> APIRouter:
    """Return the routes under ``/approvals``. Whoever calls decides what the policy lets that principal decide."""
    router = APIRouter(prefix="/approvals", tags=["approvals"])

    @router.get("", response_model=tuple[ApprovalView, ...])
    def approvals(
        caller: Calling, status: ApprovalStatus | None = None, run: Annotated[str | None, Query(max_length=1024)] = None
    ) -> Response:
        """List what a person was asked, in the order in which it was."""
        found = list_approvals(boards.of(caller), status, run)
        return answer(tuple(approval_view(one) for one in found), APPROVALS, caller)

    @router.get("/{approval}", response_model=ApprovalView)
    def show(caller: Calling, approval: ApprovalId) -> Response:
        """Return one approval."""
        return answer(approval_view(Approval.load(boards.of(caller), approval)), APPROVAL, caller)

    @router.post("/{approval}/approve", response_model=ApprovalView)
    async def approve(caller: Calling, approval: ApprovalId, word: Approve) -> Response:
        """Allow it once, as it is shown, or answer the question."""
        return await _decide(caller, approval, "approve", word.model_dump())

    @router.post("/{approval}/modify", response_model=ApprovalView)
    async def modify(caller: Calling, approval: ApprovalId, word: Modify) -> Response:
        """Allow a call once with other arguments, or vouch for another value; they count as the caller's own."""
        return await _decide(caller, approval, "modify", word.model_dump())

    @router.post("/{approval}/reject", response_model=ApprovalView)
    async def reject(caller: Calling, approval: ApprovalId, word: Refuse) -> Response:
        """Refuse it; the run goes on with a denial."""
        return await _decide(caller, approval, "reject", word.model_dump())

    @router.post("/{approval}/terminate", response_model=ApprovalView)
    async def terminate(caller: Calling, approval: ApprovalId, word: Refuse) -> Response:
        """End the run that asks."""
        return await _decide(caller, approval, "terminate", word.model_dump())

    @router.post("/{approval}/escalate", response_model=ApprovalView)
    async def escalate(caller: Calling, approval: ApprovalId, word: Escalate) -> Response:
        """Hand it to another principal, who alone may decide it then."""
        return await _decide(caller, approval, "escalate", word.model_dump())

    async def _decide(caller: Caller, approval: str, verdict: Verdict, said: dict[str, Any]) -> Response:
        # What the caller does not see is not there, also not as something that it may not decide.
        await asyncio.to_thread(Approval.load, boards.of(caller), approval)
        decided = await runtime.decide(approval, verdict, by=caller.principal, **said)
        return answer(approval_view(decided), APPROVAL, caller)

    return router
