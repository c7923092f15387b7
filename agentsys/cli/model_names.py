"""Models as the command line names them: the options that take one, and what Tab offers there."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from typing import Annotated

import typer

from agentsys.errors import AgentsysError
from agentsys.serving.weights.catalogue import CATALOGUE, in_vllm, is_remote, weights_of
from agentsys.settings import Settings, load_settings


def completed_name(incomplete: str) -> list[str]:
    """Complete the names that calls use of the configured models."""
    settings = _settings()
    return [] if settings is None else _starting(incomplete, [settings.model.name, *settings.models])


def completed_spec(incomplete: str) -> list[str]:
    """Complete what --model takes: configured, pulled and known models, in vLLM too where it is installed."""
    settings, specs = _settings(), _specs()
    if importlib.util.find_spec("vllm") is not None:
        specs += [in_vllm(spec) for spec in specs if not is_remote(spec) and weights_of(spec) == spec]
    return _starting(incomplete, [*specs, *(() if settings is None else settings.models)])


def completed_source(incomplete: str) -> list[str]:
    """Complete what can be pulled: the weights of configured models, and those that have a short name."""
    return _starting(incomplete, [weights_of(spec) for spec in _specs() if not is_remote(spec)])


ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model: a name, folder or Hugging Face id, in vLLM as vllm:NAME; or http://host/v1#model.",
        autocompletion=completed_spec,
    ),
]
ServedModelOption = Annotated[
    str | None,
    typer.Option("--model", help="The model to serve; default: model.name.", autocompletion=completed_spec),
]
ModelArgument = Annotated[str, typer.Argument(help="The model's name.", autocompletion=completed_name)]


def _specs() -> list[str]:
    from agentsys.serving.weights.cache import list_models

    settings = _settings()
    if settings is None:
        return list(CATALOGUE)
    named = (spec for one in settings.models.values() for spec in one.specs)
    pulled = (model.name for model in list_models(settings.models_dir))
    return [*settings.default_specs, *named, *CATALOGUE, *pulled]


def _settings() -> Settings | None:
    try:
        return load_settings().settings
    except AgentsysError:
        return None


def _starting(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]
