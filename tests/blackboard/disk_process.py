"""Helper of test_power_cut.py: ``BOARD DURABILITY`` commits in threads, ``BOARD fail KIND ERRNO`` has disk trouble.

Runs under disk_recorder.c. What is acknowledged goes to the file ``BOARD-acknowledged``, which the recorder sees too.
"""

import json
import os
import sys
import threading
from pathlib import Path

from agentsys.blackboard import database
from agentsys.blackboard.board import Board
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.transactions import Transaction
from agentsys.errors import BoardError

THREADS = 4
COMMITS = 40


def change(board: Board, name: str, number: int) -> Transaction:
    tx = board.begin(name)
    tx.put("left", name, number, type="count")
    tx.put("all", f"{name}/{number:06d}", "x" * 300, type="item")
    tx.put("right", name, number, type="count")
    return tx


def commit_and_acknowledge(path: str, durability: str) -> None:
    # Checkpoints must fall into the trace, which is shorter than the usual distance between two.
    database.CHECKPOINT_PAGES = 40
    acknowledged = os.open(f"{path}-acknowledged", os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def work(name: str) -> None:
        for number in range(1, COMMITS + 1):
            commit = board.commit(change(board, name, number))
            os.write(acknowledged, json.dumps(["commit", commit.seq, commit.tx_id, number]).encode() + b"\n")

    with Board.open(path, durability=durability) as board:
        threads = [threading.Thread(target=work, args=(f"t{number}",)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def meet_trouble(path: str, kind: str, number: str) -> None:
    """Print what is raised while the disk fails, what can be read meanwhile, and where the same commit lands after."""
    control = Path(os.environ["AGENTSYS_DISK_FAIL"])
    with Board.open(path) as board:
        for count in range(1, 4):
            board.commit(change(board, "t", count))
        control.write_text(kind + number)
        refused = change(board, "t", 4)
        raised = []
        for _ in range(2):
            try:
                board.commit(refused)
            except BoardError as error:
                raised.append(type(error).__name__)
        readable = len(board.query(Predicate(topic="all")))
        control.unlink()
        print(json.dumps([raised, readable, board.head, board.commit(refused).seq, board.verify()]))


if sys.argv[2] == "fail":
    meet_trouble(sys.argv[1], sys.argv[3], sys.argv[4])
else:
    commit_and_acknowledge(sys.argv[1], sys.argv[2])
