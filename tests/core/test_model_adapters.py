"""LoRA adapters in the settings: names for calls, in the engines of another model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agentsys.cli.app import app
from agentsys.cli.doctor import check_adapters
from agentsys.cli.model_names import completed_name
from agentsys.embedded import adapters_of, client_of
from agentsys.errors import ConfigurationError
from agentsys.settings import Settings, load_settings

TOML = """
models_dir = "models"

[model]
name = "vllm:smollm2-135m"

[models.law]
adapter = "law"

[models.large]
spec = "vllm:other"
replicas = ["http://c.example.org/v1#other"]

[models.sea]
adapter = "sea"
adapter_of = "large"
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agentsys.toml").write_text(TOML, encoding="utf-8")
    law = tmp_path / "law"
    law.mkdir()
    (law / "adapter_config.json").write_text(json.dumps({"r": 8, "peft_type": "LORA"}), encoding="utf-8")
    (law / "adapter_model.safetensors").write_bytes(b"\0" * 2_000_000)
    return load_settings(directory=tmp_path, environment={}).settings


def load(given: dict[str, Any], tmp_path: Path) -> Settings:
    return load_settings({"model.name": "vllm:m", **given}, directory=tmp_path, environment={}).settings


def test_an_adapter_is_a_name_in_the_engines_of_its_model_alone(settings: Settings) -> None:
    client = client_of(settings)
    assert client.models == ("vllm:smollm2-135m", "large", "law", "sea")
    assert (client.adapter_of("law"), client.adapter_of("sea")) == ("vllm:smollm2-135m", "large")
    assert adapters_of(settings, "large") == {"sea": Path("sea")}
    base, large = (client._sources[name] for name in ("vllm:smollm2-135m", "large"))
    assert [one.adapters for one in base.replicas] == [{"law"}]
    assert [one.adapters for one in large.replicas] == [{"sea"}, frozenset()], "a server elsewhere loads none"
    assert "law" not in client.identity("sea") and client.identity("law").endswith(" law")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"models.x.adapter_of": "vllm:m"}, r"models.x.* give spec, replicas, or both; or adapter"),
        ({"models.x.spec": "m", "models.x.adapter_of": "vllm:m"}, r"adapter_of needs adapter"),
        ({"models.x.adapter": "x", "models.x.spec": "m", "models.x.slots": 3}, r"takes no slots, spec"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=says):
        load(given, tmp_path)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"models.x.adapter": "x", "models.x.adapter_of": "y"}, r"names 'y', which is no model; there are vllm:m"),
        ({"models.x.adapter": "x", "models.x.adapter_of": "x"}, r"names 'x', which is no model"),
        (
            {"models.x.adapter": "x", "model.name": "smollm2-135m"},
            r"engines \(smollm2-135m\) none loads adapters",
        ),
        ({"models.x.adapter": "x", "model.name": "http://a.org/v1"}, r"a model of its own there.*http://HOST/v1#NAME"),
    ],
)
def test_an_adapter_without_a_model_that_runs_it_is_refused(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=says):
        client_of(load(given, tmp_path))


def test_the_command_line_lists_completes_and_checks_adapters(settings: Settings) -> None:
    assert completed_name("l") == ["law", "large"]
    listed = json.loads(CliRunner().invoke(app, ["models", "list", "--json"]).stdout)["adapters"]
    assert [(one["name"], one["adapter_of"], one["rank"]) for one in listed] == [
        ("law", "vllm:smollm2-135m", 8),
        ("sea", "large", None),
    ]
    assert "adapter_config.json is not there" in listed[1]["error"]
    table = CliRunner().invoke(app, ["models", "list"], env={"COLUMNS": "200"}).stdout
    assert "2 MB" in table and "adapter of vllm:smollm2-135m" in table
    finding = check_adapters(settings)
    assert (finding.state, "'sea'" in finding.detail) == ("fault", True)
    (Path("law")).rename("sea")
    assert "'law'" in check_adapters(settings).detail
