"""Several models in one process: loaded when asked, unloaded when others need the room, seen from outside."""

from __future__ import annotations

import asyncio
import itertools
import json
from functools import partial
from types import SimpleNamespace

import psutil
import pytest
from typer.testing import CliRunner

from agentsys.cli import model_fleet
from agentsys.cli.app import app as cli
from agentsys.cli.output import out
from agentsys.serving.client import ServingClient
from agentsys.serving.device_memory import DeviceBudgets
from agentsys.serving.dispatcher.health import Breaker
from agentsys.serving.engine_errors import EngineClosedError
from agentsys.serving.loading import LoadedModels, ModelBusyError, UnknownEngineError
from agentsys.serving.models import EngineOptions, replicated
from agentsys.serving.requests import GenerateRequest, SamplingParams
from agentsys.serving.residence import Residence
from agentsys.serving.scheduling.workflows import WorkflowTable
from agentsys.serving.server.app import serving_app
from agentsys.serving.tokenizer import ModelTokenizer
from agentsys.serving.torch_engine.engine import TorchEngine

ASKED = SamplingParams(max_tokens=4)


class Factory:
    """Makes a scripted engine, and counts how often."""

    def __init__(self, runner, folder) -> None:
        self.runner, self.folder, self.made = runner, folder, []

    def __call__(self) -> TorchEngine:
        self.made.append(TorchEngine(self.runner(), ModelTokenizer(self.folder), name="scripted"))
        return self.made[-1]


@pytest.fixture
def factories(scripted_runner, tiny_model_dir):
    return {name: Factory(scripted_runner, tiny_model_dir) for name in "abc"}


async def test_an_unloaded_model_is_loaded_again_by_its_next_call(factories) -> None:
    client = ServingClient(factories, "a")
    assert await client.unload("a") is False
    await client.generate(GenerateRequest([5], ASKED))
    assert await client.unload("a") is True
    assert [one.loaded for one in client.residents()] == [False, False, False]
    with pytest.raises(EngineClosedError):
        await anext(aiter(factories["a"].made[0].submit(GenerateRequest([5], ASKED))))
    await client.generate(GenerateRequest([5], ASKED))
    assert len(factories["a"].made) == 2 and client.residents()[0].loaded
    with pytest.raises(UnknownEngineError):
        await client.unload("z")
    await client.close()


async def test_a_model_that_answers_stays(factories) -> None:
    client = ServingClient({**factories, "fixed": factories["c"]()}, "a")
    stream = client.stream(GenerateRequest([5], SamplingParams(max_tokens=200, ignore_eos=True)))
    await anext(stream)
    with pytest.raises(ModelBusyError, match="answering 1"):
        await client.unload("a")
    with pytest.raises(ModelBusyError, match="load it again"):
        await client.unload("fixed")
    await stream.aclose()
    assert await client.unload("a") is True
    await client.close()
    await client._models._sources["fixed"].close()


def growing(each: int):
    """Return what stands for ``psutil.Process`` where each load takes ``each`` bytes, and nothing is given back."""
    seen = itertools.count()

    class Process:
        def memory_info(self):
            return SimpleNamespace(rss=each * next(seen))

    return Process


async def test_beyond_the_budget_the_model_needed_last_makes_room(factories, monkeypatch) -> None:
    monkeypatch.setattr(psutil, "Process", growing(100))
    client = ServingClient(factories, "a", memory_bytes=250)
    for model in ("a", "b", "a", "b", "a"):
        await client.generate(GenerateRequest([5], ASKED), model=model)
    holder = client.stream(GenerateRequest([5], SamplingParams(max_tokens=200, ignore_eos=True)), model="a")
    await anext(holder)
    await client.generate(GenerateRequest([5], ASKED), model="c")
    assert [(one.name, one.loaded) for one in client.residents()] == [("a", True), ("b", False), ("c", True)]
    await holder.aclose()
    await client.close()


class Clock:
    """Seconds that pass when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def two_in_turn(factories, monkeypatch):
    """Models a and b called in turn, each every 100 s, where memory holds one; b was called last."""
    monkeypatch.setattr(psutil, "Process", growing(100))
    clock = Clock()

    def slow(name: str) -> TorchEngine:
        clock.now += 5.0
        return factories[name]()

    models = LoadedModels({name: partial(slow, name) for name in "ab"}, Residence(DeviceBudgets({"cpu": 150}), clock))
    for number in range(20):
        clock.now = 50.0 * number
        with models.in_use("ab"[number % 2]):
            await models.engine("ab"[number % 2])
    clock.now = 950.0
    yield models, clock
    await models.close()


def states(models: LoadedModels) -> list[str]:
    return [models.resident(name).state for name in "ab"]


async def test_a_model_is_loaded_before_its_call_in_the_place_of_one_needed_later(two_in_turn, factories) -> None:
    models, clock = two_in_turn
    assert states(models) == ["not loaded", "loaded"] and models.resident("b").memory_bytes == 100
    clock.now += 20.0
    models._look()
    assert states(models) == ["not loaded", "loaded"], "it is too early"
    clock.now += 29.0
    models._look()
    assert states(models) == ["loading", "loaded"]
    await models.engine("a")
    assert states(models) == ["loaded ahead", "not loaded"]
    before = len(factories["a"].made)
    with models.in_use("a"):
        await models.engine("a")
    assert states(models) == ["loaded", "not loaded"] and len(factories["a"].made) == before
    seen = models.resident("a")
    assert (seen.loads, seen.loads_ahead) == (11, 1)


def test_the_command_line_tells_what_was_loaded_ahead_and_what_comes_next(monkeypatch) -> None:
    told = {
        "name": "m", "state": "loaded ahead", "open": 0, "memory_bytes": 300 * 2**20, "gpu_bytes": 2**31,
        "next_use": 400.0, "loads": 12, "loads_ahead": 3, "load_seconds": 4.5, "replicas": [],
    }  # fmt: skip
    states = [str(state) for state in Breaker]
    replicas = [{"name": f"n{place}", "state": state, "in_flight": 1, "slots": 8} for place, state in enumerate(states)]
    other = told | {"next_use": 30.0, "gpu_bytes": 0, "replicas": replicas}
    monkeypatch.setattr(model_fleet, "ask_server", lambda *_: [told | {"replicas": replicas[:1]}, other])
    monkeypatch.setattr(out, "_width", 200)  # the terminal's columns are looked up once, by whichever test is first
    table = CliRunner().invoke(cli, ["models", "ps"]).output
    for text in ("loaded ahead", "300 MiB, 2048 MiB GPU", "in 7 min", "in 30 s", "12, 3 ahead, 4.5 s"):
        assert text in table, text
    assert all(text in table for text in ("n0 up 1/8", "n1 down 1/8", "n2 on trial 1/8")) and table.count("n0") == 1


async def test_what_its_owner_unloaded_waits_for_its_call(two_in_turn) -> None:
    models, clock = two_in_turn
    await models.unload("b")
    clock.now += 90.0
    models._look()
    assert states(models) == ["not loaded", "not loaded"], "that of a is overdue, and b was unloaded"


async def test_a_call_that_cannot_be_foreseen_any_more_is_not_waited_for(two_in_turn) -> None:
    models, clock = two_in_turn
    assert models._timer is not None
    clock.now += 1000.0
    models._look()
    assert models._timer is None and states(models) == ["not loaded", "loaded"]


async def test_a_guess_that_cannot_be_loaded_fails_no_call_and_takes_no_memory(two_in_turn, monkeypatch) -> None:
    models, clock = two_in_turn

    def fail():
        raise EngineClosedError("not now")

    monkeypatch.setitem(models._sources, "a", fail)
    clock.now += 49.0
    models._look()
    with pytest.raises(EngineClosedError):
        await models._loading["a"]
    await asyncio.sleep(0)
    assert set(models.failed) == {"a"} and states(models) == ["not loaded", "not loaded"]
    assert models.resident("a").memory_bytes == 0
    models._look()
    assert not models._loading, "one guess is made for one call"


async def test_a_model_that_another_is_unloaded_for_may_be_called_meanwhile(factories, monkeypatch) -> None:
    monkeypatch.setattr(psutil, "Process", growing(100))
    client = ServingClient(factories, "a", memory_bytes=200)
    for model in "ab":
        await client.generate(GenerateRequest([5], ASKED), model=model)
    close, streams = TorchEngine.close, []
    long = GenerateRequest([5], SamplingParams(max_tokens=200, ignore_eos=True))

    async def close_slowly(self) -> None:
        if not streams:
            other = next(name for name in "ab" if self not in factories[name].made)
            streams.append(client.stream(long, model=other))
            await anext(streams[0])
        await close(self)

    monkeypatch.setattr(TorchEngine, "close", close_slowly)
    monkeypatch.setitem(client._models._residence._budgets._known, "cpu", 50)
    await client.generate(GenerateRequest([5], ASKED), model="c")
    assert [chunk async for chunk in streams[0]][-1].usage.completion_tokens == 200
    await client.close()


def test_the_command_line_sees_loads_and_unloads(factories, listening, monkeypatch) -> None:
    client = ServingClient(factories, "a")
    with listening(serving_app(client)) as url:
        run = CliRunner()
        shown = run.invoke(cli, ["models", "load", "b", "--url", url, "--json"])
        assert shown.exit_code == 0, shown.output
        assert [model["name"] for model in json.loads(shown.output)["models"] if model["loaded"]] == ["b"]
        table = run.invoke(cli, ["models", "ps", "--url", f"{url}/v1"])
        assert "not loaded" in table.output and table.exit_code == 0
        assert run.invoke(cli, ["models", "unload", "b", "--url", url]).exit_code == 0
        refused = run.invoke(cli, ["models", "unload", "z", "--url", url])
        assert refused.exit_code != 0 and "AGS-0416" in refused.output
        assert "Name one of the configured models" in refused.output and "{" not in refused.output
    absent = run.invoke(cli, ["models", "ps", "--url", "http://127.0.0.1:9"])
    assert absent.exit_code != 0 and "AGS-0469" in absent.output
    asyncio.run(client.close())


async def test_replicas_are_seen_one_by_one(tmp_path) -> None:
    client = ServingClient({"m": replicated([str(tmp_path)], EngineOptions(), WorkflowTable())}, "m")
    (view,) = client.residents()
    assert (view.name, view.loaded, view.replicas, view.next_use) == ("m", False, (), None)
