"""The serving layer in this process, as the settings want it."""

from __future__ import annotations

from dataclasses import replace

from pydantic import SecretStr

from agentsys.errors import ConfigurationError
from agentsys.sections import ModelSettings, NamedModelSettings
from agentsys.serving.client import ServingClient
from agentsys.serving.dispatcher.dispatcher import OUTAGE_SECONDS
from agentsys.serving.models import EngineOptions, replicated
from agentsys.serving.scheduling.in_flight import DispatchLimits
from agentsys.serving.scheduling.policy import UrgencyPolicy
from agentsys.serving.scheduling.workflows import WorkflowTable
from agentsys.serving.server.limits import ServerLimits, TenantLimits
from agentsys.serving.torch_engine.limits import ADAPTIVE
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


def client_of(settings: Settings) -> ServingClient:
    """Return a client of the settings' models, each loaded at its first call. Raises :class:`ConfigurationError`."""
    if settings.model.name in settings.models:
        raise ConfigurationError(
            f"Two models are named {settings.model.name}: that of [model] and one of [models].",
            remedy="Call the one in [models] by another name.",
        )
    workflows, model = WorkflowTable(), settings.model
    limits, policy = dispatching(settings)
    models = {
        model.name: replicated(
            _specs(model), options_of(settings), workflows, slots=model.slots or 0, limits=limits, policy=policy
        )
    }
    for name, named in settings.models.items():
        slots = named.slots or model.slots or 0
        models[name] = replicated(
            named.specs, options_of(settings, named), workflows, slots=slots, limits=limits, policy=policy
        )
    budget = None if model.memory_mib is None else model.memory_mib * 2**20
    return ServingClient(models, default=model.name, workflows=workflows, memory_bytes=budget)


def dispatching(settings: Settings) -> tuple[DispatchLimits, UrgencyPolicy]:
    """Return how dispatchers order and place calls, as the settings want it."""
    given = settings.schedule.model_dump(exclude_none=True)
    bounds = {name: given[name] for name in ("overcommit", "preemption_margin") if name in given}
    weights = {name: given[name] for name in ("fairness", "haste", "harm", "delay") if name in given}
    return DispatchLimits(queue=settings.model.queue, outage=OUTAGE_SECONDS, **bounds), UrgencyPolicy(**weights)


def _specs(model: ModelSettings) -> tuple[str, ...]:
    return (model.name, *model.replicas)


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
        drafter="auto" if model.speculation else None,
        models_dir=settings.models_dir,
        api_key=key.get_secret_value() if isinstance(key, SecretStr) else model.api_key,
        tuning=ADAPTIVE if chunk is None else replace(ADAPTIVE, prefill_chunk=chunk),
    )
