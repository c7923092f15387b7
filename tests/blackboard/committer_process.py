"""Helper of test_processes.py: ``PATH NAME COUNT`` increments one shared counter and keeps an item for each success."""

import sys

from agentsys.blackboard.board import Board
from agentsys.blackboard.conflicts import Conflict


def increment(board: Board, name: str) -> int:
    while True:
        tx = board.begin(name)
        counter = tx.get("shared", "counter")
        number = 1 + (counter.value if counter is not None else 0)
        tx.put("shared", "counter", number, type="count")
        tx.put("items", f"{number:06d}", name, type="item")
        try:
            board.commit(tx)
        except Conflict:
            continue
        return number


def main() -> None:
    path, name, count = sys.argv[1:]
    with Board.open(path) as board:
        for _ in range(int(count)):
            print(increment(board, name), flush=True)


main()
