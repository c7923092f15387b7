"""The serving layer in this process, as the settings want it."""

from __future__ import annotations

from agentsys.serving.client import ServingClient
from agentsys.serving.models import EngineOptions, engine_factory
from agentsys.serving.server.limits import ServerLimits, TenantLimits
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
    """Return a client of the settings' model, which is loaded at its first call."""
    model = settings.model
    options = EngineOptions(
        weight_format=model.weight_format,
        threads=model.threads,
        kv_cache_bytes=model.kv_cache_mib * 2**20,
        max_batch=model.max_batch,
        drafter="auto" if model.speculation else None,
        models_dir=settings.models_dir,
        api_key=model.api_key,
    )
    return ServingClient({model.name: engine_factory(model.name, options)}, default=model.name)
