"""P10: principals that share a server, a board and agents do not learn each other's values by any route."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from agentsys import topics
from agentsys.agents import agent
from agentsys.blackboard.board import Board
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.labels import NOBODY, OWNER, PUBLIC, Label, Readers
from agentsys.blackboard.predicates import Predicate
from agentsys.errors import ConfigurationError
from agentsys.policy.policy import Policy
from agentsys.protocols.principals import AmbiguousToken, digest_of, principal_of, principals
from agentsys.runs import RunRecord
from agentsys.runtime import Runtime
from agentsys.sections import PrincipalSettings
from agentsys.settings import load_settings
from agentsys.tenancy import OperatorOnly, board_for
from agentsys.testing import ScriptedModel
from agentsys.tools import tool
from tests.http.conftest import TOKEN, served

ANN, BOB = "user:ann", "user:bob"
TOKENS = {OWNER: TOKEN, ANN: "a-token-for-ann-alone", BOB: "a-token-for-bob-alone"}
NAMED = {name.removeprefix("user:"): PrincipalSettings(token=TOKENS[name]) for name in (ANN, BOB)}  # type: ignore[arg-type]


@tool(effect=EffectClass.IRREVERSIBLE, audience=NOBODY, source=Label.trusted("tool:send", PUBLIC))
def send(text: str) -> str:
    return f"sent {text}"


@agent(kind="talk")
async def gossip(context: Any, request: Any) -> Any:
    """A shared agent: it keeps what it is told where all agents look, and tells what it finds there."""
    context.put("notes", f"of-{request.run}", request.value, type="note")
    answer = await context.generate(f"about {request.value}")
    return [request.value, answer.value]


async def whisper(context: Any, text: Any) -> Any:
    outcome = await context.ask("talk", text)
    await context.generate(f"think of {text}")
    return [outcome.answers[0].value, (await context.call("send", text=str(text))).value]


async def recall(context: Any, text: Any) -> Any:
    """Keep a text, and return all texts that are kept."""
    context.put("notes", f"of-{context.run}", text, type="note")
    return sorted(str(entry.value) for entry in context.query(Predicate(topic="notes")))


POLICY = Policy.of(
    trusted=[OWNER, ANN, BOB, "tool:send"], asks=["send"], open_topics=["notes"], approvers=[OWNER, ANN, BOB]
)


@contextmanager
def tenants() -> Iterator[tuple[Callable[[str], httpx.Client], Board]]:
    """Serve a runtime; give a client for each principal."""
    with Board.open(":memory:") as board:
        model = ScriptedModel(lambda prompt: f"thought: {prompt}")
        runtime = Runtime(board, model, agents=[gossip], tools=[send], workflows=[whisper, recall], policy=POLICY)
        with served(runtime, principals=NAMED, a2a=True, mcp=True) as owner:
            made = {
                name: httpx.Client(
                    base_url=str(owner.base_url), headers={"Authorization": f"Bearer {token}"}, timeout=30
                )
                for name, token in TOKENS.items()
            }
            try:
                yield made.__getitem__, board
            finally:
                for client in made.values():
                    client.close()


def start(client: httpx.Client, text: str, run: str | None = None) -> str:
    """Start a run and wait until it asks a person."""
    body = {"workflow": "whisper", "input": text, "run_id": run}
    found: str = client.post("/api/v1/runs", json=body).json()["run"]
    until(lambda: client.get(f"/api/v1/approvals?status=pending&run={found}").json())
    return found


def until(found: Callable[[], Any]) -> Any:
    ends = time.monotonic() + 30
    while not (value := found()):
        assert time.monotonic() < ends
        time.sleep(0.01)
    return value


def finish(client: httpx.Client, run: str) -> Any:
    (asked,) = client.get(f"/api/v1/approvals?status=pending&run={run}").json()
    assert client.post(f"/api/v1/approvals/{asked['id']}/approve", json={}).status_code == 200
    until(lambda: client.get(f"/api/v1/runs/{run}").json()["status"] != "running")
    return client.get(f"/api/v1/runs/{run}").json()


def everything(client: httpx.Client, board: Board, runs: list[str], approvals: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the answer of every route of the API that reads, for every run, approval, entry and commit there is."""
    described = client.get("/api/v1/openapi.json").json()["paths"]
    entries = {(entry.topic, entry.key) for commit in board.log() for entry in commit.writes}
    seqs = range(1, board.head + 1)
    for path, methods in described.items():
        if "get" not in methods:
            continue
        filled = [path]
        for name, values in (("{run}", runs), ("{approval}", approvals), ("{seq}", seqs)):
            filled = [one.replace(name, str(value)) for one in filled for value in (values if name in one else [0])]
        required = {part["name"] for part in methods["get"].get("parameters", []) if part.get("required")}
        for one in filled:
            queries: list[dict[str, str]] = [{}]
            if {"topic", "key"} <= required:
                queries = [{"topic": topic, "key": key} for topic, key in sorted(entries)]
            elif "step" in required:
                queries = [{"step": key} for topic, key in sorted(entries) if topic.endswith("/steps")]
            for query in queries:
                yield f"{one} {query}", read(client, f"/api/v1{one}", query)


def read(client: httpx.Client, path: str, query: dict[str, str]) -> str:
    if not path.endswith(("tail", "stream")):
        return client.get(path, params=query).text
    lines = list[str]()
    following = client.stream("GET", path, params=query | {"after": "0"}, timeout=0.2)
    with suppress(httpx.ReadTimeout), following as answer:
        for line in answer.iter_lines():
            lines.append(line)
    return "\n".join(lines)


def test_no_route_tells_one_principal_what_another_said():
    """Every reading route of the OpenAPI description, for every address on the board, as each of the two."""
    secrets = {ANN: "pelican-of-ann", BOB: "walrus-of-bob"}
    with tenants() as (client, board):
        runs = {name: start(client(name), text, f"run-of-{name[5:]}-x") for name, text in secrets.items()}
        asked = [one["id"] for name in secrets for one in client(name).get("/api/v1/approvals").json()]
        assert len(asked) == 2
        finish(client(ANN), runs[ANN])
        for name, other in ((ANN, BOB), (BOB, ANN)):
            found = dict(everything(client(name), board, list(runs.values()), asked))
            assert len(found) > 60
            own = [path for path, text in found.items() if secrets[name] in text]
            assert len(own) > 15, "the search can fail"
            for path, text in found.items():
                assert secrets[other] not in text, path
                assert runs[other] not in text.replace(path, "") or "AGS-0601" in text, path
        finish(client(BOB), runs[BOB])


def test_a_reader_without_the_wall_would_be_caught(monkeypatch: pytest.MonkeyPatch):
    """With everybody taken for the operator and withholding gone, the same walk finds the secret."""
    monkeypatch.setattr("agentsys.protocols.http.view_routes.withhold", lambda view, reader: view)
    monkeypatch.setattr("agentsys.protocols.http.callers.board_for", lambda board, principal: board)
    with tenants() as (client, board):
        run = start(client(ANN), "pelican-of-ann")
        assert any("pelican-of-ann" in text for _, text in everything(client(BOB), board, [run], []))


def test_a_shared_agent_finds_for_each_only_what_it_may_read():
    """What Bob wrote where all agents look makes Ann's answer neither different nor unreadable."""
    with tenants() as (client, board):
        answers = []
        for text in ("first", "second"):
            run = client(ANN).post("/api/v1/runs", json={"workflow": "recall", "input": text}).json()["run"]
            until(lambda run=run: client(ANN).get(f"/api/v1/runs/{run}").json()["status"] != "running")
            answers.append(client(ANN).get(f"/api/v1/runs/{run}").json())
            other = client(BOB).post("/api/v1/runs", json={"workflow": "recall", "input": "walrus"}).json()["run"]
            until(lambda run=other: client(BOB).get(f"/api/v1/runs/{run}").json()["status"] != "running")
        assert [one["value"] for one in answers] == [["first"], ["first", "second"]]
        assert not any(one["withheld"] for one in answers)
        kept = {(entry.value, tuple(entry.label.influencers)) for entry in board.query(Predicate(topic="notes"))}
        assert {("walrus", (BOB,)), ("first", (ANN,))} <= kept


def test_each_steers_and_decides_only_its_own():
    with tenants() as (client, _):
        run = start(client(ANN), "hello")
        (asked,) = client(ANN).get("/api/v1/approvals").json()
        assert asked["shown"][0]["text"] == "hello"
        assert client(ANN).get("/api/v1/health").json()["principal"] == ANN
        for verb in ("cancel", "resume", "fork"):
            assert client(BOB).post(f"/api/v1/runs/{run}/{verb}", json={}).status_code == 404
        for verb, body in (("approve", {}), ("reject", {}), ("terminate", {}), ("modify", {"edited": {}})):
            assert client(BOB).post(f"/api/v1/approvals/{asked['id']}/{verb}", json=body).status_code == 404
        # The operator sees that it is there, and not what it says; so it cannot decide it either.
        (seen,) = client(OWNER).get("/api/v1/approvals").json()
        assert seen["withheld"] and seen["arguments"] is None
        assert client(OWNER).post(f"/api/v1/approvals/{asked['id']}/approve", json={}).status_code == 403
        assert (
            client(BOB).get("/api/v1/runs").json() == [] and client(BOB).get("/api/v1/views/runs").json()["rows"] == []
        )
        for path in ("metrics", "serving"):
            refused = client(BOB).get(f"/api/v1/{path}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, OperatorOnly.code)
            assert client(OWNER).get(f"/api/v1/{path}").status_code == 200
        done = finish(client(ANN), run)
        assert done["value"][1] == "sent hello" and ANN in done["input_label"]["influencers"]


def test_a_run_that_both_may_read_is_steered_by_who_started_it():
    with tenants() as (client, board):
        shared = Label(frozenset({ANN}), Readers.of(ANN, BOB))

        transaction = board.begin(ANN, run="shared")
        RunRecord("shared", "whisper", "hi", shared, 1.0, None).write(transaction)
        board.commit(transaction)
        assert client(BOB).get("/api/v1/runs/shared").json()["input"] == "hi"
        refused = client(BOB).post("/api/v1/runs/shared/cancel")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "AGS-0772")
        assert client(ANN).post("/api/v1/runs/shared/cancel").status_code == 200
        assert board.history(topics.RUNS, "shared")[-1].writer == ANN


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    writes=st.lists(
        st.tuples(
            st.sampled_from(["notes", "runs/x/steps", "approvals", "leases", "quotas"]),
            st.sampled_from("abc"),
            st.sets(st.sampled_from([ANN, BOB, OWNER]), min_size=1),
            st.booleans(),
        ),
        max_size=8,
    )
)
def test_what_a_principal_sees_does_not_depend_on_what_it_may_not_read(writes: list[Any]):
    """Two boards that differ only in values and run names that Bob may not read look the same to Bob."""
    seen = []
    for variant in ("one", "two"):
        with Board.open(":memory:") as board:
            for topic, key, readers, delete in writes:
                hidden = BOB not in readers
                transaction = board.begin(ANN, run=f"hidden-{variant}" if hidden else "open")
                label = Label(frozenset({ANN}), Readers(frozenset(readers)))
                transaction.put(
                    topic, key, {"v": variant if hidden else "same"}, type="t", label=label, derived_from=()
                )
                if delete:
                    transaction.delete(topic, key, label=label)
                board.commit(transaction)
            view = board_for(board, BOB)
            commits = [(commit.seq, commit.run, commit.effects, values(commit.writes)) for commit in view.log()]
            newest = [commit.seq for commit in view.commits(limit=3)]
            seen.append((commits, newest, [values(view.history("notes", key)) for key in "abc"]))
            assert all("hidden" not in json.dumps(part, default=str) for part in seen[-1])
            with pytest.raises(OperatorOnly):
                view._open_reader().check()
    assert seen[0] == seen[1]


def values(entries: Any) -> list[Any]:
    return [(entry.topic, entry.key, entry.version, entry.value, entry.run, entry.derived_from) for entry in entries]


async def test_mcp_clients_act_as_the_principal_of_their_token():
    with tenants() as (client, _):
        url = f"{client(ANN).base_url}/mcp"

        async def call(name: str) -> Any:
            headers = {"Authorization": f"Bearer {TOKENS[name]}"}
            async with (
                httpx.AsyncClient(headers=headers, timeout=30) as http,
                Client(streamable_http_client(url, http_client=http)) as session,
            ):
                calling = asyncio.create_task(session.call_tool("run_whisper", {"input": f"secret-of-{name}"}))
                while not (
                    asked := (await asyncio.to_thread(client(name).get, "/api/v1/approvals?status=pending")).json()
                ):
                    await asyncio.sleep(0.02)
                await asyncio.to_thread(client(name).post, f"/api/v1/approvals/{asked[0]['id']}/approve", json={})
                return (await calling).content[0].text, [one.uri for one in (await session.list_resources()).resources]

        told, resources = await call(ANN)
        assert f"sent secret-of-{ANN}" in told
        told, resources = await call(BOB)
        assert f"sent secret-of-{BOB}" in told and resources
        runs = client(BOB).get("/api/v1/runs").json()
        assert [run["input_label"]["influencers"] for run in runs] == [[BOB]]
        async with (
            httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKENS[BOB]}"}, timeout=30) as http,
            Client(streamable_http_client(url, http_client=http)) as session,
        ):
            for uri in resources:
                assert f"secret-of-{ANN}" not in str(await session.read_resource(str(uri)))


def test_a2a_tasks_are_those_of_the_tokens_principal():
    with tenants() as (client, _):
        message = {"role": "ROLE_USER", "messageId": "m", "parts": [{"text": "secret-of-ann"}]}
        message["metadata"] = {"skill": "whisper"}
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage"}
        sent = {"message": message, "configuration": {"returnImmediately": True}}
        headers = {"A2A-Version": "1.0"}
        task = client(ANN).post("/a2a", json=body | {"params": sent}, headers=headers).json()["result"]["task"]["id"]
        until(lambda: client(ANN).get("/api/v1/approvals?status=pending").json())
        assert client(ANN).get(f"/api/v1/runs/{task}").json()["input_label"]["influencers"] == [ANN]
        get = {"jsonrpc": "2.0", "id": 2, "method": "GetTask", "params": {"id": task}}
        assert client(ANN).post("/a2a", json=get, headers=headers).json()["result"]["id"] == task
        refused = client(BOB).post("/a2a", json=get, headers=headers).json()
        assert "error" in refused and "secret" not in json.dumps(refused)
        cancel = get | {"method": "CancelTask"}
        assert "error" in client(BOB).post("/a2a", json=cancel, headers=headers).json()
        assert client(ANN).get(f"/api/v1/runs/{task}").json()["status"] == "running"
        finish(client(ANN), task)


def test_tokens_are_kept_as_digests_and_belong_to_one(tmp_path: Path):
    file = tmp_path / "token"
    file.write_text("a-token-in-a-file\n")
    named = {
        "ann": PrincipalSettings(token_hash="sha256:" + digest_of("a-token-for-ann-alone")),
        "service:batch": PrincipalSettings(token_file=file),
    }
    known = principals(OWNER, TOKEN, named)
    assert "a-token" not in repr(vars(known)) and TOKEN not in repr(vars(known))
    for token, name in ((TOKEN, OWNER), ("a-token-for-ann-alone", ANN), ("a-token-in-a-file", "service:batch")):
        caller = known.caller(token.encode())
        assert caller is not None and (caller.principal, caller.operator) == (name, name == OWNER)
    assert known.caller(b"") is None and known.caller(b"a-token-for-ann-alon") is None
    for broken in (
        {"ann": PrincipalSettings(token=TOKEN)},  # type: ignore[arg-type]
        {"owner": PrincipalSettings(token="another-token-of-the-owner")},  # type: ignore[arg-type]
        {name: PrincipalSettings(token=f"a-token-for-{name}-alone") for name in ("ann", ANN)},  # type: ignore[arg-type]
        {"ann": PrincipalSettings(token_file=tmp_path / "none")},
    ):
        with pytest.raises(AmbiguousToken):
            principals(OWNER, TOKEN, broken)
    assert principal_of("ann") == ANN and principal_of("service:batch") == "service:batch"


def test_principals_come_from_the_settings_and_the_environment(tmp_path: Path):
    (tmp_path / "agentsys.toml").write_text(f'[principals.ann]\ntoken_hash = "sha256:{"0" * 64}"\n')
    environment = {"AGENTSYS_PRINCIPALS__BOB__TOKEN": "a-token-for-bob-alone"}
    found = load_settings(directory=tmp_path, environment=environment)
    assert set(found.settings.principals) == {"ann", "bob"}
    assert "a-token-for-bob-alone" not in repr(found)
    with pytest.raises(ConfigurationError):
        load_settings(directory=tmp_path, environment={"AGENTSYS_PRINCIPALS__ANN__TOKEN": "two-tokens-for-ann"})
    short = {"AGENTSYS_PRINCIPALS__EVE__TOKEN": "short"}
    with pytest.raises(ConfigurationError) as told:
        load_settings(directory=tmp_path, environment=short)
    assert "short" not in told.value.message
