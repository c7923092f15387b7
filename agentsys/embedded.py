"""The serving layer in this process, as the settings want it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import SecretStr

from agentsys.errors import ConfigurationError
from agentsys.sections import NamedModelSettings
from agentsys.serving.adapted import AdaptedModel
from agentsys.serving.client import ServingClient
from agentsys.serving.dispatcher.dispatcher import OUTAGE_SECONDS
from agentsys.serving.loading import EngineFactory
from agentsys.serving.models import EngineOptions, replicated, runs_adapters
from agentsys.serving.scheduling.in_flight import DispatchLimits
from agentsys.serving.scheduling.policy import UrgencyPolicy
from agentsys.serving.scheduling.workflows import WorkflowTable
from agentsys.serving.server.limits import ServerLimits, TenantLimits
from agentsys.serving.torch_engine.limits import ADAPTIVE
from agentsys.serving.weights.progress import ProgressListener, ignore_progress
from agentsys.settings import Settings


def limits_of(settings: Settings) -> ServerLimits:
    """Return the limits of a model server."""
    given = settings.server.limits
    return ServerLimits(
        calls=given.calls,
        tenant=TenantLimits(given.tenant_calls, given.tenant_queued, given.tenant_tokens_per_minute),
        tenants={
            name: TenantLimits(own.calls, own.queued, own.tokens_per_minute) for name, own in given.tenants.items()
        },
        read_seconds=given.read_seconds,
        drain_seconds=given.drain_seconds,
    )


def client_of(settings: Settings, *, progress: ProgressListener = ignore_progress) -> ServingClient:
    """Return a client of the settings' models, each loaded at its first call. Raises :class:`ConfigurationError`.

    ``progress`` is told, by the thread that loads a model, how far its pull is.
    """
    if settings.model.name in settings.models and settings.model.replicas:
        raise ConfigurationError(
            f"model.name is that of [models.{settings.model.name}], and model.replicas gives it others beside its own.",
            remedy=f"Write them into [models.{settings.model.name}], or call that by another name.",
        )
    workflows, model = WorkflowTable(), settings.model
    limits, policy = dispatching(settings)
    adapted = adapted_models(settings)
    models: dict[str, EngineFactory | AdaptedModel] = {**adapted}
    for name, named in {model.name: None, **settings.models}.items():
        if name in adapted:
            continue
        options = replace(options_of(settings, named), adapters=adapters_of(settings, name))
        specs, slots = (settings.default_specs, None) if named is None else (named.specs, named.slots)
        models[name] = replicated(
            specs,
            options,
            workflows,
            slots=slots or model.slots or 0,
            limits=limits,
            policy=policy,
            progress=progress,
        )
    return ServingClient(
        models,
        default=model.name,
        workflows=workflows,
        memory_bytes=_bytes(model.memory_mib),
        gpu_memory_bytes=_bytes(model.gpu_memory_mib),
    )


def _bytes(mib: int | None) -> int | None:
    return None if mib is None else mib * 2**20


def adapted_models(settings: Settings) -> dict[str, AdaptedModel]:
    """Return the models that are adapters of others. Raises :class:`ConfigurationError` where such another is none."""
    own = {settings.model.name: settings.default_specs}
    own |= {name: named.specs for name, named in settings.models.items() if named.adapter is None}
    adapted = {
        name: AdaptedModel(named.adapter_of or settings.model.name, name, str(named.adapter))
        for name, named in settings.models.items()
        if named.adapter is not None
    }
    for name, one in adapted.items():
        if one.base not in own:
            raise ConfigurationError(
                f"models.{name}.adapter_of names {one.base!r}, which is no model; there are {', '.join(sorted(own))}.",
                remedy="Name a model with an engine of its own: model.name, or one of [models] that is no adapter.",
            )
        if not any(runs_adapters(spec) for spec in own[one.base]):
            engines = ", ".join(own[one.base])
            raise ConfigurationError(
                f"models.{name} is an adapter of {one.base!r}, and of its engines ({engines}) none loads adapters.",
                remedy="Run it in vLLM, as vllm:NAME; an adapter of a server elsewhere is a model of its own there: "
                'spec = "http://HOST/v1#NAME".',
            )
    return adapted


def adapters_of(settings: Settings, base: str) -> dict[str, Path]:
    """Return the adapters of a model, by the names that calls use."""
    default = settings.model.name
    every = ((name, one) for name, one in settings.models.items() if (one.adapter_of or default) == base)
    return {name: one.adapter for name, one in every if one.adapter is not None}


def dispatching(settings: Settings) -> tuple[DispatchLimits, UrgencyPolicy]:
    """Return how dispatchers order and place calls, as the settings want it."""
    given = settings.schedule.model_dump(exclude_none=True)
    bounds = {name: given[name] for name in ("overcommit", "preemption_margin") if name in given}
    weights = {name: given[name] for name in ("fairness", "haste", "harm", "delay") if name in given}
    return DispatchLimits(queue=settings.model.queue, outage=OUTAGE_SECONDS, **bounds), UrgencyPolicy(**weights)


def options_of(settings: Settings, named: NamedModelSettings | None = None) -> EngineOptions:
    """Return how a model's engines run, as the settings want it."""
    given = {} if named is None else named.model_dump(exclude_none=True, exclude={"spec", "replicas", "slots"})
    model, key = settings.model.model_copy(update=given), given.get("api_key")
    chunk = settings.schedule.prefill_chunk
    return EngineOptions(
        weight_format=model.weight_format,
        device=model.device,
        threads=model.threads,
        kv_cache_bytes=model.kv_cache_mib * 2**20,
        max_batch=model.max_batch,
        adapters_at_once=model.adapters_at_once,
        drafter="auto" if model.speculation else None,
        models_dir=settings.models_dir,
        api_key=key.get_secret_value() if isinstance(key, SecretStr) else model.api_key,
        tuning=ADAPTIVE if chunk is None else replace(ADAPTIVE, prefill_chunk=chunk),
    )
