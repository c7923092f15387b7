from __future__ import annotations

from collections.abc import Iterator

import pytest

from agentsys.blackboard.board import Board


@pytest.fixture
def board() -> Iterator[Board]:
    with Board.open(":memory:") as opened:
        yield opened
