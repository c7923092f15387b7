"""Routes for what waits for a person's word."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from agentsys.approvals import Approval, ApprovalStatus, Verdict
from agentsys.protocols.http.approval_schemas import ApprovalDocument, Word
from agentsys.runtime import Runtime

ApprovalId = Annotated[str, Path(min_length=1, max_length=200)]


def approval_router(runtime: Runtime) -> APIRouter:
    """Return the routes under ``/approvals``. Whoever may call them speaks for the board's owner."""
    router = APIRouter(prefix="/approvals", tags=["approvals"])
    board, owner = runtime.board, runtime.policy.owner

    @router.get("")
    def approvals(
        status: ApprovalStatus | None = None, run: Annotated[str | None, Query(max_length=1024)] = None
    ) -> list[ApprovalDocument]:
        """List what a person was asked, the oldest first."""
        return [ApprovalDocument.of(one, owner) for one in runtime.approvals(status, run)]

    @router.get("/{approval}")
    def show(approval: ApprovalId) -> ApprovalDocument:
        """Return one approval."""
        return ApprovalDocument.of(Approval.load(board, approval), owner)

    @router.post("/{approval}/approve")
    async def approve(approval: ApprovalId, word: Word) -> ApprovalDocument:
        """Allow the call once, as it is shown, or answer the question."""
        return await _decide(approval, "approve", word)

    @router.post("/{approval}/refuse")
    async def refuse(approval: ApprovalId, word: Word) -> ApprovalDocument:
        """Refuse the call, or to answer."""
        return await _decide(approval, "refuse", word)

    async def _decide(approval: str, verdict: Verdict, word: Word) -> ApprovalDocument:
        decided = await runtime.decide(approval, verdict, note=word.note, answer=word.answer)
        return ApprovalDocument.of(decided, owner)

    return router
