"""A process that writes a board beside others: for each line it reads it commits a run that asks just that.

``python -m agentsys.benchmarks.run_writer BOARD`` prints the time of each commit, of ``time.monotonic``.
"""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import OWNER, Label, Readers
from agentsys.runs import RunRecord


def main() -> None:
    """Commit until standard input ends."""
    label = Label.trusted(OWNER, Readers.of(OWNER))
    with Board.open(Path(sys.argv[1]), durability="normal") as board:
        for line in sys.stdin:
            now, run = time.time(), uuid.uuid4().hex[:12]
            record = RunRecord(run, "ask", {"question": line.strip()}, label, now, None)
            transaction = board.begin(OWNER, run=run)
            record.done(line.strip(), label, "", now).write(transaction)
            board.commit(transaction)
            print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main()
