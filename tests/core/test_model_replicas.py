"""Several models, several replicas of one, and what a run tells them of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypedDict

import pytest
import torch
from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime as GraphRuntime
from typer.testing import CliRunner

from agentsys.agents import agent
from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import NOBODY, OWNER, PUBLIC, Label, Readers
from agentsys.cli.app import app as cli
from agentsys.cli.doctor import check_torch
from agentsys.embedded import client_of, dispatching, options_of
from agentsys.errors import ConfigurationError
from agentsys.lake.local import planner_kind
from agentsys.models import audience_of
from agentsys.policy.policy import Policy
from agentsys.runtime import Runtime
from agentsys.serving import launcher
from agentsys.serving.launcher import ServerSpec
from agentsys.serving.scheduling.in_flight import DispatchLimits
from agentsys.serving.scheduling.policy import UrgencyPolicy
from agentsys.serving.scheduling.workflows import WorkflowTable
from agentsys.serving.torch_engine.limits import ADAPTIVE
from agentsys.serving.torch_engine.weight_formats import DeviceError
from agentsys.settings import load_settings
from agentsys.testing import ScriptedModel
from agentsys.workflow import Workflow

# The weights of the engines' own tests.
from tests.serving.conftest import smollm2_dir  # noqa: F401

TOML = """
[model]
name = "http://a.example.org/v1#m"
replicas = ["http://b.example.org/v1#m", "http://127.0.0.1:9/v1#m"]
api_key = "common"
slots = 8

[models.fast]
spec = "smollm2-135m"
max_batch = 4
device = "cuda"

[models.far]
replicas = ["http://c.example.org/v1", "http://d.example.org/v1"]
api_key = "its-own"
"""


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "agentsys.toml").write_text(TOML, encoding="utf-8")
    return load_settings(directory=tmp_path, environment={}).settings


def test_all_models_of_the_settings_can_be_named(settings) -> None:
    client = client_of(settings)
    assert client.models == ("http://a.example.org/v1#m", "far", "fast")
    servers = {f"model-server:{host}.example.org" for host in "abcd"}
    assert client.audience == Readers(frozenset(servers))
    assert "its-own" not in repr(settings) and "its-own" not in str(settings.model_dump())


def test_a_model_runs_on_its_own_device_or_on_that_of_all(settings, tmp_path) -> None:
    fast, far = settings.models["fast"], settings.models["far"]
    assert [options_of(settings, one).device for one in (None, fast, far)] == ["cpu", "cuda", "cpu"]
    given = {"model.device": "cuda", "models.small.spec": "smollm2-135m", "models.small.device": "cpu"}
    on_gpu = load_settings(given, directory=tmp_path, environment={}).settings
    assert [options_of(on_gpu, one).device for one in (None, on_gpu.models["small"], far)] == ["cuda", "cpu", "cuda"]
    with pytest.raises(ConfigurationError, match="device"):
        load_settings({"models.small.spec": "m", "models.small.device": "tpu"}, directory=tmp_path, environment={})


def test_adapters_that_share_a_step_are_set_for_all_models_or_for_one(tmp_path) -> None:
    given = {"models.large.spec": "vllm:m", "models.large.adapters_at_once": 2, "model.adapters_at_once": 5}
    settings = load_settings(given, directory=tmp_path, environment={}).settings
    assert [options_of(settings, one).adapters_at_once for one in (None, settings.models["large"])] == [5, 2]
    assert options_of(load_settings(directory=tmp_path, environment={}).settings).adapters_at_once == 8
    for bad in (0, "many"):
        with pytest.raises(ConfigurationError, match="adapters_at_once"):
            load_settings({"model.adapters_at_once": bad}, directory=tmp_path, environment={})
    with pytest.raises(ConfigurationError, match="takes no adapters_at_once"):
        given = {"models.legal.adapter": "x", "models.legal.adapters_at_once": 2}
        load_settings(given, directory=tmp_path, environment={})


@pytest.mark.model
async def test_a_device_that_is_not_there_fails_its_own_model_alone(
    smollm2_dir: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    given = {"model.name": str(smollm2_dir), "models.big.spec": str(smollm2_dir), "models.big.device": "cuda"}
    settings = load_settings(given, directory=tmp_path, environment={}).settings
    finding = check_torch(settings)
    assert (finding.state, "'cuda'" in finding.detail) == ("fault", True)
    client = client_of(settings)
    with pytest.raises(DeviceError, match="AGS-0456"):
        await client.engine("big")
    assert client.failed == {"big"}
    await client.engine()
    await client.close()


def test_a_prompt_goes_to_the_replicas_that_may_learn_it(settings) -> None:
    client = client_of(settings)
    b = Readers.of("model-server:b.example.org", OWNER)
    assert audience_of(client, b) == Readers.of("model-server:b.example.org")
    assert audience_of(client, Readers.of(OWNER)) == NOBODY, "one replica is on this machine"
    assert audience_of(client, PUBLIC) == Readers.of(*(f"model-server:{host}.example.org" for host in "ab"))
    far = Readers.of("model-server:c.example.org", "model-server:d.example.org")
    assert audience_of(client, Readers.of(OWNER), "far") == far, "to none: who would learn it is told"
    assert audience_of(client, Readers.of(OWNER), "fast") == NOBODY


def test_the_policys_processors_may_learn_beside_the_readers() -> None:
    policy = Policy.of(processors=["model-server:a"])
    assert policy.learners(Label.trusted()) == Readers.of(OWNER, "model-server:a")
    assert policy.learners(Label.trusted(readers=PUBLIC)) == PUBLIC


def test_settings_that_name_no_engine_or_one_name_twice_are_refused(tmp_path) -> None:
    with pytest.raises(ConfigurationError, match=r"spec, replicas"):
        load_settings({"models.empty.slots": 3}, directory=tmp_path, environment={})
    given = {"models.smollm2-135m.spec": "x", "model.replicas": ["y"]}
    with pytest.raises(ConfigurationError, match="smollm2-135m"):
        client_of(load_settings(given, directory=tmp_path, environment={}).settings)


def test_the_default_model_may_be_one_of_those_with_a_name(tmp_path) -> None:
    (tmp_path / "agentsys.toml").write_text(
        TOML.replace(TOML.splitlines()[2], 'name = "far"').replace(TOML.splitlines()[3], "")
    )
    settings = load_settings(directory=tmp_path, environment={}).settings
    assert settings.default_specs == ("http://c.example.org/v1", "http://d.example.org/v1")
    client = client_of(settings)
    assert client.models == ("far", "fast")
    assert client.audience == Readers(frozenset({"model-server:c.example.org", "model-server:d.example.org"}))
    assert planner_kind(settings) == "free" and not settings.runs_smallest
    fast = load_settings({"model.name": "fast"}, directory=tmp_path, environment={}).settings
    assert fast.runs_smallest and planner_kind(fast) == "focused" and client_of(fast).models == ("fast", "far")
    assert load_settings({"model.name": "vllm:smollm2-135m"}, directory=tmp_path, environment={}).settings.runs_smallest


class StartedFleet:
    """Stands for servers that run: what they were started with, and their addresses."""

    def __init__(self, specs: list[ServerSpec]) -> None:
        self.specs = specs
        STARTED.append(self)

    def start(self) -> list[str]:
        return [f"http://127.0.0.1:{spec.port}/v1" for spec in self.specs]

    def repair(self) -> list[str]:
        raise KeyboardInterrupt

    def stop(self) -> None: ...


STARTED: list[StartedFleet] = []


def test_what_launch_prints_are_settings_under_which_the_model_keeps_its_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(launcher, "LocalFleet", StartedFleet)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTSYS_MODELS_DIR", str(tmp_path / "models"))
    pulled = tmp_path / "models" / "smollm2-135m"
    pulled.mkdir(parents=True)
    (pulled / "agentsys.json").write_text('{"source": "x", "sha256": "0"}')
    for served in ("smollm2-135m", str(pulled)):
        printed = CliRunner().invoke(cli, ["models", "launch", "--count", "2", "--port", "8710"]).stdout
        # What the servers run is not what the settings, which they read too, now call by that name: they themselves.
        assert [(spec.model, spec.port) for spec in STARTED[-1].specs] == [(served, 8710), (served, 8711)]
        (tmp_path / "agentsys.toml").write_text(printed)
        settings = load_settings().settings
        assert settings.default_specs == ("http://127.0.0.1:8710/v1", "http://127.0.0.1:8711/v1")
        assert client_of(settings).models == ("smollm2-135m",)
    printed = CliRunner().invoke(cli, ["models", "launch", "--model", "Some/Folder.v2 x", "--json"]).stdout
    assert json.loads(printed)["name"] == "Folder.v2-x"
    refused = CliRunner().invoke(cli, ["models", "launch", "--model", "http://127.0.0.1:8710/v1"])
    assert refused.exit_code != 0 and "is a server already" in refused.output


@pytest.mark.parametrize("written", ["http://a/v1,http://b/v1", '["http://a/v1", "http://b/v1"]'])
def test_the_environment_gives_replicas_as_words_or_as_json(written, tmp_path) -> None:
    given = load_settings(directory=tmp_path, environment={"AGENTSYS_MODEL__REPLICAS": written}).settings
    assert given.model.replicas == ("http://a/v1", "http://b/v1")
    with pytest.raises(ConfigurationError, match="replicas"):
        load_settings(directory=tmp_path, environment={"AGENTSYS_MODEL__REPLICAS": '["http://a/v1"'})


def test_the_schedule_of_the_settings_reaches_dispatchers_and_engines(tmp_path) -> None:
    given = {"schedule.harm": 0.5, "schedule.overcommit": 2.0, "schedule.prefill_chunk": 512}
    settings = load_settings(given, directory=tmp_path, environment={}).settings
    limits, policy = dispatching(settings)
    assert (policy.harm, policy.haste) == (0.5, UrgencyPolicy().haste)
    assert (limits.overcommit, limits.preemption_margin) == (2.0, DispatchLimits().preemption_margin)
    assert options_of(settings).tuning == replace(ADAPTIVE, prefill_chunk=512)
    with pytest.raises(ConfigurationError, match="overcommit"):
        load_settings({"schedule.overcommit": 0.5}, directory=tmp_path, environment={})


class Telling(ScriptedModel):
    """Keeps what a scheduling model is told beside the calls."""

    def __init__(self) -> None:
        super().__init__(lambda prompt: "yes")
        self.workflows = WorkflowTable()
        self.ended: list[str] = []

    def workflow_ended(self, workflow: str) -> None:
        self.ended.append(workflow)


@agent(kind="detail", name="clerk")
async def clerk(context, request) -> str:
    return (await context.generate("a detail")).value


async def test_a_call_says_where_it_stands_in_its_run(tmp_path) -> None:
    model = Telling()

    async def survey(context, given) -> str:
        await context.generate("first")
        return (await context.ask("detail", "x")).value

    async with Runtime(Board.open(tmp_path / "b.db"), model, agents=[clerk]) as runtime:
        result = await runtime.run(survey, "x", deadline=50)
    places = [request.call for request in model.requests]
    assert [(place.kind, place.stage, place.tenant) for place in places] == [
        ("survey", "survey", OWNER),
        ("survey", "clerk", OWNER),
    ]
    assert {place.workflow for place in places} == {result.record.run} and model.ended == [result.record.run]
    assert all(place.deadline == place.arrived + 50 for place in places)
    assert all(request.audience == Readers.of(OWNER) for request in model.requests)


class State(TypedDict, total=False):
    text: str


async def test_the_nodes_of_a_graph_are_the_stages_that_can_follow_each_other(tmp_path) -> None:
    async def draft(state: State, runtime: GraphRuntime[Any]) -> State:
        return {"text": (await runtime.context.generate("draft")).value}

    async def check(state: State, runtime: GraphRuntime[Any]) -> State:
        return {"text": (await runtime.context.generate("check")).value}

    builder = StateGraph(State)
    builder.add_node("draft", draft)
    builder.add_node("check", check)
    builder.add_edge(START, "draft")
    builder.add_edge("draft", "check")
    builder.add_conditional_edges("check", lambda state: END, {END: END, "draft": "draft"})
    model, told = Telling(), []
    know = model.workflows.know
    model.workflows.know = lambda kind, edges: (told.append((kind, edges)), know(kind, edges))[1]
    async with Runtime(Board.open(tmp_path / "b.db"), model) as runtime:
        for _ in range(2):
            await runtime.run(Workflow("essay", builder), {"text": ""})
    assert told == [("essay", {"": ["draft"], "draft": ["check"], "check": [None, "draft"]})], "told once"
    assert [request.call.stage for request in model.requests] == ["draft", "check"] * 2
    assert len(model.ended) == 2
