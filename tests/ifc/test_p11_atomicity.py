"""P11: a value and its label are one commit, wherever the process dies; and commits are as if one came after another.

Serialisability itself is shown by checkers over histories: ``tests/blackboard/test_planted_bugs.py`` and
``agentsys bench isolation``. Here the disk dies before or after every single commit of a run that hides, endorses,
spends and writes; then the run goes on from what is on disk.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import BOTTOM, Label
from agentsys.blackboard.predicates import Predicate
from agentsys.blackboard.storage import StorageFailed
from agentsys.context import Context
from agentsys.errors import AgentsysError
from agentsys.runs import UnknownRun
from tests.ifc.world import MAIL, WEB, World


async def work(context: Context, _: Any) -> Any:
    mail = await context.call_hidden("read_mail")
    context.put("notes/mail", "first", {"is": mail[0]["body"]}, type="note")
    ann = await context.endorse(mail[0]["sender"], "contact")
    await context.call_hidden("send", to=ann, text=mail[1]["body"])
    context.put("notes/sent", "to", {"is": ann}, type="note")
    pages = await context.call("browse")
    context.put("notes/pages", "all", pages, type="note")
    return context.label.to_json()


class Disk:
    """The disk of a board, which dies at its commit number ``at``, before or after that is stored."""

    def __init__(self, board: Board, at: int, *, stored: bool) -> None:
        committer: Any = board._committer
        storage = getattr(committer, "_committer", committer)._storage
        self.commits = 0
        self.dead = False
        right_append, right_commits = storage.append, storage.commits

        def append(accepted: Any) -> Any:
            self.commits += 1
            if self.commits == at and stored:
                right_append(accepted)
            self.dead = self.dead or self.commits == at
            self._check()
            return right_append(accepted)

        def commits(*arguments: Any, **named: Any) -> Any:
            self._check()
            return right_commits(*arguments, **named)

        storage.append, storage.commits = append, commits

    def _check(self) -> None:
        if self.dead:
            raise StorageFailed("the disk died")


def state(board: Board) -> dict[tuple[str, str], tuple[Any, Label]]:
    """Return what a run leaves on the board, times and leases aside."""
    found = {}
    for entry in board.query(Predicate()):
        if entry.topic not in (topics.LEASES, topics.RUNS):
            found[entry.topic, entry.key] = (entry.value, entry.label)
    return found


def faults(board: Board) -> list[str]:
    """Return the values on the board whose label is not theirs."""
    wanted = {"notes/mail": MAIL, "notes/sent": MAIL, "notes/pages": WEB}
    found = []
    for topic, label in wanted.items():
        kept = [label.influencers <= entry.label.shaped_by for entry in board.query(Predicate(topic=topic))]
        found += [f"{topic} has lost its label"] * kept.count(False)
    steps: list[Any] = [entry.value for entry in board.query(Predicate(topic=topics.steps("r")))]
    spent = sum(step["value"]["bits"] for step in steps if step["kind"] == "endorse")
    quota = board.get(topics.QUOTAS, "r/bits/mail")
    body: Any = quota.value if quota is not None else {"spent": 0}
    if body["spent"] != spent:
        found.append(f"{body['spent']} bits are spent, and {spent} were endorsed")
    planned = {effect.id for effect in board.effects()}
    found += [
        f"a call without its step: {effect}"
        for effect in planned - {step["value"].get("effect") for step in steps if isinstance(step["value"], dict)}
    ]
    return found


def die_and_go_on(folder: Path, at: int, *, stored: bool) -> tuple[dict[Any, Any], Any, int]:
    """Run until the disk dies, look at what is left, and let another process go on."""
    path, world = folder / f"{at}-{stored}.db", World()
    with suppress(AgentsysError), Board.open(path, durability="normal") as board:
        disk = Disk(board, at, stored=stored)
        asyncio.run(world.runtime(board).run(work, run_id="r"))
    with Board.open(path, durability="normal") as board:
        assert board.verify() == board.head
        assert faults(board) == []
        runtime = world.runtime(board)
        try:
            result = asyncio.run(runtime.resume("r", work))
        except UnknownRun:
            result = asyncio.run(runtime.run(work, run_id="r"))
        assert faults(board) == []
        assert len({str(call) for call in world.done}) == 1, "another call was made than the first"
        return state(board), (result.status, result.value), disk.commits


def test_wherever_the_disk_dies_values_and_labels_stay_together_and_the_run_ends_the_same(tmp_path: Path) -> None:
    wanted, result, commits = die_and_go_on(tmp_path, 0, stored=False)
    assert result[0] == "done"
    assert commits > 10
    for at in range(1, commits + 1):
        for stored in (False, True):
            assert die_and_go_on(tmp_path, at, stored=stored)[:2] == (wanted, result), (at, stored)


def test_a_label_that_is_lost_on_the_way_to_the_disk_is_caught(tmp_path: Path) -> None:
    path = tmp_path / "b.db"
    with Board.open(path) as board:
        committer: Any = board._committer
        storage = getattr(committer, "_committer", committer)._storage
        right = storage.append

        def append(accepted: Any) -> Any:
            def lowered(entry: Any) -> Any:
                return replace(entry, label=BOTTOM) if entry.topic.startswith("notes/") else entry

            return right(
                [
                    replace(one, commit=replace(one.commit, writes=tuple(map(lowered, one.commit.writes))))
                    for one in accepted
                ]
            )

        storage.append = append
        asyncio.run(World().runtime(board).run(work, run_id="r"))
    with Board.open(path) as board:
        assert [fault for fault in faults(board) if "lost its label" in fault]


@pytest.mark.parametrize("rivals", [2, 5])
async def test_two_who_spend_at_once_never_spend_more_than_there_is(board: Board, rivals: int) -> None:
    world = World()

    async def spender(context: Context, _: Any) -> int:
        mail = await context.call_hidden("read_mail")

        async def one() -> int:
            try:
                await context.endorse(mail[0]["sender"], "contact")
            except AgentsysError:
                return 0
            return 1

        return sum(await asyncio.gather(*(one() for _ in range(4 * rivals))))

    result = await world.runtime(board).run(spender, run_id="r")
    assert result.value == min(4 * rivals, 12)
    quota = board.get(topics.QUOTAS, "r/bits/mail")
    assert quota is not None and quota.value == {"spent": 2.0 * result.value}
