"""An adapter over HTTP: a model's name like any other, in the engine of another. The engine is scripted."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import openai
import pytest
from starlette.types import ASGIApp

from agentsys.serving.adapted import AdaptedModel
from agentsys.serving.client import ServingClient
from agentsys.serving.engine import Capabilities
from agentsys.serving.server.app import serving_app
from tests.serving.server.scripted import ScriptedEngine


class AdapterEngine(ScriptedEngine):
    def capabilities(self) -> Capabilities:
        return Capabilities("scripted", 1000, embeddings=True, adapters=frozenset({"law"}))


@pytest.fixture
def engine() -> AdapterEngine:
    return AdapterEngine()


@pytest.fixture
def url(engine: AdapterEngine, serve: Callable[[ASGIApp], str]) -> str:
    models = {"base": lambda: engine, "law": AdaptedModel("base", "law")}
    return serve(serving_app(ServingClient(models, "base"))) + "/v1"


def test_an_adapter_is_asked_for_and_listed_as_a_model(url: str, engine: AdapterEngine) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["base", "law"]
    before = httpx.get(f"{url}/models/law").json()
    assert (before["parent"], "max_model_len" in before) == ("base", False)
    for name in ("law", "base"):
        answer = client.chat.completions.create(model=name, messages=[{"role": "user", "content": "hi"}])
        assert answer.model == name
    assert [request.adapter for request in engine.requests] == ["law", None]
    after = [httpx.get(f"{url}/models/{name}").json() for name in ("law", "base")]
    assert [one["max_model_len"] for one in after] == [1000, 1000], "the base's engine is loaded, so both are"
    assert [one["embeddings"] for one in after] == [False, True]
    assert "parent" not in after[1]


def test_what_an_adapter_cannot_do_is_an_error_in_openais_shape(url: str) -> None:
    client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="law", input="hi")
    assert refused.value.code == "AGS-0417"
    with pytest.raises(openai.NotFoundError, match=r"configured: base, law"):
        client.chat.completions.create(model="sea", messages=[{"role": "user", "content": "hi"}])


def test_the_operator_sees_whose_memory_an_adapter_is_in(url: str) -> None:
    admin = url.removesuffix("/v1") + "/admin/models"
    loaded = httpx.post(f"{admin}/load", params={"model": "law"}).json()
    assert [(one["name"], one["loaded"], one["adapter_of"]) for one in loaded] == [
        ("base", True, None),
        ("law", True, "base"),
    ]
    refused = httpx.post(f"{admin}/unload", params={"model": "law"})
    assert "Unload base" in refused.json()["error"]["message"]
