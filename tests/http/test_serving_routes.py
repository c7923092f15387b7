"""What the API tells of engines: figures of every request, and none of its text. The engine is scripted."""

import httpx
import pytest

from agentsys.blackboard.board import Board
from agentsys.protocols.http.client import RuntimeClient
from agentsys.runtime import Runtime
from agentsys.serving.client import ServingClient
from agentsys.workflow import Workflow
from tests.http.conftest import TOKEN, served
from tests.http.scripted_engine import ANSWER, ScriptedEngine

SECRET = "what nobody else may read"


async def think(context, text):
    return (await context.generate(text)).value


@pytest.fixture(params=[True, False])
def engine(request):
    return ScriptedEngine(tells_queue=request.param)


@pytest.fixture
def client(engine):
    with Board.open(":memory:") as board:
        model = ServingClient({"scripted": engine}, "scripted")
        runtime = Runtime(board, model, workflows=[Workflow("think", think)])
        with served(runtime) as http, RuntimeClient(str(http.base_url), TOKEN) as client:
            yield client


def raw(client, path):
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return httpx.get(f"{client._http.base_url}{path}", headers=headers).text


def test_requests_are_told_with_their_run_and_without_their_text(client, engine):
    assert client.serving()[0].load is None
    assert client.serving()[0].residence.state == "not loaded"
    run = client.start("think", SECRET)
    while not (load := client.serving()[0].load) or not load.requests or not load.requests[0].tokens:
        pass
    now = load.requests[0]
    assert (now.run, now.phase, now.tokens) == (run, "decode", 2) and now.agent
    assert load.queue_known is engine.tells_queue
    assert now.urgency == 7.0 if engine.tells_queue else now.urgency > 7.0
    assert SECRET not in raw(client, "serving") and ANSWER not in raw(client, "serving")
    engine.go_on.set()
    assert [event.type for event in client.watch(run)][-1] == "run_finished"
    load = client.serving()[0].load
    residence = client.serving()[0].residence
    assert (residence.state, residence.loads, residence.loads_ahead, residence.next_use) == ("loaded", 1, 0, None)
    ended = load.recent[0]
    assert load.requests == [] and (ended.run, ended.phase, ended.queued) == (run, "stop", 0.25)
    assert (ended.usage.drafted_tokens, ended.usage.accepted_tokens) == (4, 1)
    assert load.queued.p50 == 0.25 and load.first_token.count == 1 and sum(load.tokens_per_second) == 2


def test_metrics_have_the_queue_and_the_latencies(client, engine):
    run = client.start("think", SECRET)
    while 'agentsys_requests{model="scripted",phase="decode"} 1.0' not in raw(client, "metrics"):
        pass
    engine.go_on.set()
    list(client.watch(run))
    text = raw(client, "metrics")
    assert 'agentsys_engine_slots{model="scripted"} 4.0' in text
    assert 'agentsys_queued_seconds_bucket{le="0.1",model="scripted"} 0.0' in text
    assert 'agentsys_queued_seconds_bucket{le="0.25",model="scripted"} 1.0' in text
    assert 'agentsys_queued_seconds_bucket{le="+Inf",model="scripted"} 1.0' in text
    assert 'agentsys_queued_seconds_sum{model="scripted"} 0.25' in text
    assert SECRET not in text and ANSWER not in text
