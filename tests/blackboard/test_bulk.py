"""A batch of any size is stored row for row, and supersedes exactly the versions before its own."""

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.bulk import SIZES
from agentsys.blackboard.predicates import Predicate


@pytest.mark.parametrize("count", [1, 3, SIZES[0], sum(SIZES), 2 * sum(SIZES) + 2])
def test_every_row_of_a_batch_is_stored(tmp_path, count):
    with Board.open(tmp_path / "board.db") as board:
        for turn in range(3):
            transaction = board.begin("test")
            for number in range(count):
                transaction.put("topic", f"key {number:04d}", [turn, number], type="note")
            board.commit(transaction)
        assert board.verify() == 3
        for turn in range(3):
            found = board.query(Predicate(topic="topic"), at=turn + 1)
            assert [entry.value for entry in found] == [[turn, number] for number in range(count)]


def test_a_conflict_tells_what_the_entry_holds_now(tmp_path):
    with Board.open(tmp_path / "board.db") as board:
        first = board.begin("test")
        first.put("topic", "key", {"items": [1]}, type="note")
        written = board.commit(first).writes[0]
        loser = board.begin("test")
        loser.get("topic", "key")
        loser.put("topic", "other", 1, type="note")
        winner = board.begin("test")
        winner.put("topic", "key", {"items": [2]}, type="note")
        late = board.commit(winner).writes[0]
        # What a caller does to the objects it was given changes nothing on the board.
        written.value["items"].append("mine")
        late.value["items"].append("mine")
        with pytest.raises(Exception, match="AGS-0210") as lost:
            board.commit(loser)
        assert lost.value.items[0].new.value == {"items": [2]}
