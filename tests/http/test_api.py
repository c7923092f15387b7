"""The runtime's HTTP API over a real socket."""

import json
import threading
import time

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import Label, Readers
from agentsys.blackboard.storage import BoardCorrupt, BoardFull, BoardUnreachable, StorageFailed


def start(client, workflow, value=None, **more):
    answer = client.post("/api/v1/runs", json={"workflow": workflow, "input": value, **more})
    assert answer.status_code == 202, answer.text
    return answer.json()["run"]


def ended(client, run):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        document = client.get(f"/api/v1/runs/{run}").json()
        if document["status"] != "running":
            return document
        time.sleep(0.02)
    raise AssertionError("the run did not end")


def sse(client, path, until):
    """Return the events of a stream up to the first one named ``until``."""
    events, name = [], ""
    with client.stream("GET", path) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            if line.startswith("data: "):
                events.append((name, json.loads(line.removeprefix("data: "))))
                if name == until:
                    return events
    return events


def test_a_run_streams_its_tokens_and_its_end(client):
    run = start(client, "echo", "hello")
    events = sse(client, f"/api/v1/runs/{run}/stream", "run")
    names = [name for name, _ in events]
    assert names[0] == "run_started" and names[-1] == "run"
    assert [data["data"]["text"] for name, data in events if name == "tokens_streamed"] == ["said: hello"]
    assert events[-1][1]["status"] == "done" and events[-1][1]["value"] == "said: hello"
    again = sse(client, f"/api/v1/runs/{run}/stream?after=1", "run")
    assert [name for name, _ in again] == names[1:]


def test_events_are_polled(client):
    run = start(client, "echo", "hello")
    ended(client, run)
    found = client.get(f"/api/v1/runs/{run}/events").json()
    assert found["status"] == "done" and found["events"][0]["number"] == 1
    last = found["events"][-1]["number"]
    begun = time.monotonic()
    assert client.get(f"/api/v1/runs/{run}/events?after={last}&wait=5").json()["events"] == []
    assert time.monotonic() - begun < 2


def test_runs_are_listed_and_failures_told(client):
    good, bad = start(client, "echo", 1), start(client, "fails")
    assert ended(client, bad)["failure"]["message"]
    ended(client, good)
    assert [run["run"] for run in client.get("/api/v1/runs").json()] == [bad, good]
    assert [run["run"] for run in client.get("/api/v1/runs?status=failed").json()] == [bad]
    assert [run["run"] for run in client.get("/api/v1/runs?workflow=echo&limit=1").json()] == [good]


def test_a_run_is_cancelled(client):
    run = start(client, "sleeps", run_id="mine")
    assert run == "mine"
    assert client.post("/api/v1/runs", json={"workflow": "echo", "run_id": "mine"}).status_code == 409
    assert client.post(f"/api/v1/runs/{run}/resume").status_code == 409
    assert client.post(f"/api/v1/runs/{run}/cancel").status_code == 200
    assert ended(client, run)["status"] == "cancelled"


def test_the_tail_shows_a_commit_that_comes_while_it_is_followed(client, board):
    seen, url = [], f"/api/v1/board/tail?after={board.head}"
    follower = threading.Thread(target=lambda: seen.extend(sse(client, url, "commit")))
    follower.start()
    transaction = board.begin("user:owner")
    transaction.put("notes", "a", 1, type="note", label=Label.trusted())
    board.commit(transaction)
    follower.join(60)
    assert seen[0][1]["writes"][0]["key"] == "a"


def test_the_board_is_read_as_it_was(client, board):
    for value in ("one", "two"):
        transaction = board.begin("user:owner")
        transaction.put("notes", "a", value, type="note", label=Label.trusted())
        board.commit(transaction)
    where = {"topic": "notes", "key": "a"}
    assert client.get("/api/v1/board/entry", params=where).json()["value"] == "two"
    assert client.get("/api/v1/board/entry", params=where | {"at": 1}).json()["value"] == "one"
    assert [entry["value"] for entry in client.get("/api/v1/board/history", params=where).json()] == ["one", "two"]
    assert len(client.get("/api/v1/board/entries?topic_prefix=no").json()) == 1
    assert [commit["seq"] for commit in client.get("/api/v1/board/commits?after=1").json()] == [2]
    assert client.get("/api/v1/board").json()["head"] == 2
    assert client.get("/api/v1/board/entry", params=where | {"key": "b"}).status_code == 404


def test_what_the_owner_may_not_read_is_withheld(client, board):
    transaction = board.begin("user:ann")
    label = Label.trusted("user:ann", Readers.of("user:ann"))
    transaction.put("notes", "private", "a secret of Ann's", type="note", label=label)
    board.commit(transaction)
    for path in ("entry?topic=notes&key=private", "entries", "commits", "history?topic=notes&key=private"):
        answer = client.get(f"/api/v1/board/{path}")
        assert "secret" not in answer.text and '"withheld":true' in answer.text, path


async def test_a_run_over_what_the_owner_may_not_read_is_not_watched(client, runtime):
    label = Label.trusted("user:ann", Readers.of("user:ann"))
    result = await runtime.run("echo", "a secret of Ann's", label=label)
    for path in ("", "/events", "/stream"):
        answer = client.get(f"/api/v1/runs/{result.run}{path}")
        assert "secret" not in answer.text
        assert path == "" or answer.status_code == 403


def test_the_catalogue(client):
    assert {item["name"] for item in client.get("/api/v1/workflows").json()} == {"echo", "fails", "sleeps"}
    assert client.get("/api/v1/tools").json()[0]["parameters"]["required"] == ["number"]
    assert client.get("/api/v1/agents").json() == []
    assert client.get("/api/v1/health").json()["status"] == "ok"
    assert "agentsys_board_head" in client.get("/api/v1/metrics").text
    for path in ("models", "serving"):
        assert client.get(f"/api/v1/{path}").json() == []


@pytest.mark.parametrize(
    ("error", "status"), [(BoardUnreachable, 503), (StorageFailed, 503), (BoardFull, 503), (BoardCorrupt, 500)]
)
def test_a_board_that_cannot_be_read_is_not_the_callers_fault(client, monkeypatch, error, status):
    def fail(*ignored, **options):
        raise error("gone")

    with monkeypatch.context() as patched:
        patched.setattr(Board, "query", fail)
        answer = client.get("/api/v1/board/entries")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, error.code)


@pytest.mark.parametrize(
    "path",
    [
        "runs/%00",
        "runs/a%00/events",
        "board/entry?topic=%00&key=k",
        "board/entries?topic_prefix=%00",
        "board/commits?run=%00",
        "approvals/%00",
        "views/entries?prefix=%00",
        "views/runs/r/why?step=%00",
    ],
)
def test_no_name_holds_a_nul(client, path):
    """PostgreSQL cannot even be asked for one."""
    answer = client.get(f"/api/v1/{path}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "AGS-0705")


def nested(depth):
    """Return a list in a list, and so on."""
    value = []
    for _ in range(depth - 1):
        value = [value]
    return value


def test_errors_have_one_shape(client):
    for method, path, body, status in [
        ("GET", "/api/v1/runs/none", None, 404),
        ("GET", "/api/v1/nothing", None, 404),
        ("PUT", "/api/v1/runs", None, 405),
        ("POST", "/api/v1/runs", {"workflow": "none"}, 404),
        ("POST", "/api/v1/runs", {}, 422),
        ("POST", "/api/v1/runs", {"workflow": "\ud800"}, 422),
        ("POST", "/api/v1/runs", {"workflow": "echo", "input": nested(65)}, 400),
        ("POST", "/api/v1/runs", {"workflow": "echo", "input": nested(300)}, 400),
        ("POST", "/api/v1/runs", {"workflow": "echo", "input": nested(900)}, 400),
        ("POST", "/api/v1/runs", {"workflow": "echo", "input": float("nan")}, 400),
        ("GET", "/api/v1/board/entries?at=99", None, 400),
    ]:
        content = None if body is None else json.dumps(body)
        answer = client.request(method, path, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == status, (path, answer.text)
        assert {"code", "message", "remedy"} <= set(answer.json()["error"])
