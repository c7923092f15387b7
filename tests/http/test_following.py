"""Whoever follows a run or the board misses nothing, whatever happens between two looks."""

import asyncio
import json
import threading
import time
from contextlib import asynccontextmanager

import httpx
import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.compaction import Keep
from agentsys.blackboard.labels import Label
from agentsys.blackboard.storage import BoardUnreachable
from agentsys.protocols.app import FaceOptions, create_app
from agentsys.protocols.http import run_routes
from agentsys.protocols.http.streams import PAGE, Stopping, commits_after
from agentsys.runtime import Runtime
from agentsys.supervisor import RunSupervisor
from agentsys.tenancy import SeenBy, board_for
from agentsys.testing import ScriptedModel
from tests.blackboard.conftest import postgres_board, postgres_url  # noqa: F401

URL = "http://127.0.0.1:8700"


def write(board, key):
    transaction = board.begin("user:owner")
    transaction.put("notes", key, 1, type="note", label=Label.trusted())
    board.commit(transaction)


def first_commit(client, path, **headers):
    with client.stream("GET", path, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        for line in answer.iter_lines():
            if line.startswith("id: "):
                return int(line.removeprefix("id: "))
    return None


def holding(board):
    """Return a supervisor whose workflow ``held`` waits for a gate, and the gate."""
    gate = asyncio.Event()

    async def held(context, text):
        await gate.wait()
        return text

    return RunSupervisor(Runtime(board, ScriptedModel(str), workflows=[held])), gate


@asynccontextmanager
async def api_of(supervisor):
    app = httpx.ASGITransport(create_app(supervisor, FaceOptions(url=URL)))
    async with httpx.AsyncClient(transport=app, base_url=f"{URL}/api/v1") as client:
        yield client


async def test_a_run_that_ends_after_the_wait_is_told_to_the_end(board, monkeypatch):
    loop, looks = asyncio.get_running_loop(), []
    supervisor, gate = holding(board)
    load = run_routes.RunRecord.load

    def load_late(of, run):
        """Let the run end while the answer is made: at the look at its record that follows the wait."""
        if threading.current_thread() is not threading.main_thread():
            looks.append(run)
            if len(looks) == 2:
                loop.call_soon_threadsafe(gate.set)
                while supervisor.executing(run):
                    time.sleep(0.01)
        return load(of, run)

    run = await supervisor.start("held", "hello")
    monkeypatch.setattr(run_routes.RunRecord, "load", load_late)
    async with api_of(supervisor) as api:
        told = (await api.get(f"/runs/{run}/events?after=1&wait=0.1")).json()
    assert told["executing"] is False
    assert [event["type"] for event in told["events"]] == ["run_finished"]


async def test_a_run_that_ends_after_the_look_at_its_record_is_told_as_it_ended(board, monkeypatch):
    loop = asyncio.get_running_loop()
    supervisor, gate = holding(board)
    load = run_routes.RunRecord.load

    def load_early(of, run):
        """Let the run end between the look at its record and what is made of it."""
        found = load(of, run)
        if not gate.is_set() and threading.current_thread() is not threading.main_thread():
            loop.call_soon_threadsafe(gate.set)
            while supervisor.executing(run):
                time.sleep(0.01)
        return found

    run = await supervisor.start("held", "hello")
    monkeypatch.setattr(run_routes.RunRecord, "load", load_early)
    async with api_of(supervisor) as api:
        told = (await api.get(f"/runs/{run}/events")).json()
    assert (told["executing"], told["status"]) == (False, "done")


def test_who_sees_a_part_of_a_board_asks_no_database_how_far_it_is(postgres_board, monkeypatch):  # noqa: F811
    with Board.open(postgres_board) as board:
        seen = board_for(board, "user:ann")
        monkeypatch.setattr(SeenBy, "state", lambda reader: pytest.fail("the database was asked"))
        write(board, "a")
        assert seen.heard == board.heard == 1


def test_a_reader_of_the_board_that_comes_back_goes_on_where_it_was(client, board):
    for key in "abc":
        write(board, key)
    last_event_id = {"Last-Event-ID": "2"}
    assert first_commit(client, "/api/v1/board/tail?after=0") == 1
    assert first_commit(client, "/api/v1/board/tail?after=0", **last_event_id) == 3
    later = threading.Timer(0.5, write, (board, "d"))
    later.start()
    assert first_commit(client, "/api/v1/board/tail", **last_event_id) == 3
    later.join()


def test_a_past_that_the_board_no_longer_has_is_refused(client, board):
    for key in "abc":
        write(board, key)
    board.compact(Keep(commits=1))
    with client.stream("GET", "/api/v1/board/tail?after=0") as refused:
        assert refused.status_code == 410
        assert "AGS-" in refused.read().decode()
    first = board.log()[0].seq
    assert first_commit(client, f"/api/v1/board/tail?after={first}") == first + 1


def test_a_board_that_fails_while_it_is_followed_says_so(client, board, monkeypatch):
    log = Board.log

    def unreachable(self, **which):
        if which["limit"] == PAGE:
            raise BoardUnreachable("planted: out of reach")
        return log(self, **which)

    write(board, "a")
    monkeypatch.setattr(Board, "log", unreachable)
    with client.stream("GET", "/api/v1/board/tail?after=0") as answer:
        told = answer.read().decode().split("\n\n")
    assert (told[0], len(told), told[-1]) == (": open", 3, "")
    event, data = told[1].split("\n")
    error = json.loads(data.removeprefix("data: "))["error"]
    assert event == "event: error"
    assert error["code"] == BoardUnreachable.code and "planted" in error["message"]


async def test_who_follows_what_it_may_not_read_goes_on_past_it(board):
    seen, following = board_for(board, "user:ann"), Stopping()
    pages = commits_after(seen, 0, following)
    for keys in ("abc", "def"):
        for key in keys:
            write(board, key)
        # Nothing of it is for this reader, who is not behind for that.
        assert await anext(pages) == []
        board.compact(Keep(commits=1))
    transaction = board.begin("user:ann")
    transaction.put("notes", "g", 1, type="note", label=Label.trusted("user:ann"))
    board.commit(transaction)
    assert [commit.seq for commit in await anext(pages)] == [board.head]
