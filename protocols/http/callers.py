"""Who calls a route, and the board as that principal sees it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from starlette.requests import HTTPConnection

from agentsys.blackboard.board import Board
from agentsys.protocols.edge import NotAuthenticated
from agentsys.protocols.principals import CALLER, Caller
from agentsys.tenancy import OperatorOnly, board_for


def calling(connection: HTTPConnection) -> Caller:
    """Return who makes a request. Raises :class:`NotAuthenticated` where no edge said so."""
    caller = connection.scope.get(CALLER)
    if not isinstance(caller, Caller):
        raise NotAuthenticated("The request did not pass the server's edge.")
    return caller


def operating(connection: HTTPConnection) -> Caller:
    """Return the operator. Raises :class:`OperatorOnly` for anybody else."""
    caller = calling(connection)
    if not caller.operator:
        raise OperatorOnly(f"{caller.principal} may not see what all principals' runs do together.")
    return caller


Calling = Annotated[Caller, Depends(calling)]


class SeenBoards:
    """One board as each principal sees it. The operator sees all of it, without what labels keep from the owner."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._seen: dict[str, Board] = {}

    def of(self, caller: Caller) -> Board:
        if caller.operator:
            return self._board
        return self._seen.setdefault(caller.principal, board_for(self._board, caller.principal))
