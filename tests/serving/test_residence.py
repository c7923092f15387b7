"""Several models in one process: loaded when asked, unloaded when others need the room, seen from outside."""

from __future__ import annotations

import asyncio
import json

import pytest
from typer.testing import CliRunner

from agentsys.cli.app import app as cli
from agentsys.serving.client import ModelBusyError, ServingClient, UnknownEngineError
from agentsys.serving.engine_errors import EngineClosedError
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
    await client._sources["fixed"].close()


async def test_beyond_the_budget_the_model_needed_last_makes_room(factories, monkeypatch) -> None:
    client = ServingClient(factories, "a", memory_bytes=250)
    measured = Residence.measured

    def as_hundred(self, name, source):
        manager = measured(self, name, source)

        class Fixed:
            def __enter__(self):
                manager.__enter__()

            def __exit__(inner, *error):
                manager.__exit__(*error)
                self._bytes[name] = 100

        return Fixed()

    monkeypatch.setattr(Residence, "measured", as_hundred)
    for model in ("a", "b", "a", "b", "a"):
        await client.generate(GenerateRequest([5], ASKED), model=model)
    holder = client.stream(GenerateRequest([5], SamplingParams(max_tokens=200, ignore_eos=True)), model="a")
    await anext(holder)
    await client.generate(GenerateRequest([5], ASKED), model="c")
    assert [(one.name, one.loaded) for one in client.residents()] == [("a", True), ("b", False), ("c", True)]
    await holder.aclose()
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
    absent = run.invoke(cli, ["models", "ps", "--url", "http://127.0.0.1:9"])
    assert absent.exit_code != 0 and "AGS-0469" in absent.output
    asyncio.run(client.close())


async def test_replicas_are_seen_one_by_one(tmp_path) -> None:
    client = ServingClient({"m": replicated([str(tmp_path)], EngineOptions(), WorkflowTable())}, "m")
    (view,) = client.residents()
    assert (view.name, view.loaded, view.replicas, view.next_use) == ("m", False, (), None)
