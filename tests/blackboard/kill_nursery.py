"""Helper of test_kill.py: for every line on stdin, a forked process commits in four threads until it is killed.

Every commit writes the same number at two addresses and one new entry; once it is acknowledged, a line says so.
"""

import os
import sys
import threading
from pathlib import Path

from agentsys.blackboard.board import Board


def work(board: Board, name: str) -> None:
    number = 0
    while True:
        tx = board.begin(name, run="kill")
        last = tx.get("left", name)
        number = (last.value if last is not None else 0) + 1
        tx.put("left", name, number, type="count")
        tx.put("all", f"{name}/{number:06d}", "x" * 200, type="item")
        tx.put("right", name, number, type="count")
        board.commit(tx)
        os.write(1, f"ack {name} {number}\n".encode())


def commit_until_killed(path: Path) -> None:
    board = Board.open(path)
    for name in ("a", "b", "c", "d"):
        threading.Thread(target=work, args=(board, name)).start()


def main() -> None:
    path = Path(sys.argv[1])
    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            commit_until_killed(path)
            return
        os.write(1, f"pid {child}\n".encode())
        os.waitpid(child, 0)
        os.write(1, b"dead\n")


main()
