from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel


@pytest.fixture
def board() -> Iterator[Board]:
    opened = Board.open(":memory:")
    yield opened
    opened.close()


@pytest.fixture
def make_runtime(board: Board) -> Callable[..., Runtime]:
    """Build a runtime on the test's board; the scripted model echoes the prompt's last line unless told otherwise."""

    def make(*, script: Callable[[str], str] = lambda prompt: prompt.splitlines()[-1], **arguments: Any) -> Runtime:
        return Runtime(board, ScriptedModel(script), **arguments)

    return make
