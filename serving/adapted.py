"""Models that are others under a LoRA adapter: names of their own, in the engines and the memory of their base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from agentsys.serving.engine_errors import UnsupportedFeatureError
from agentsys.serving.requests import GenerateRequest
from agentsys.serving.residence import Resident


@dataclass(frozen=True, slots=True)
class AdaptedModel:
    """Another of a client's models, ``base``, under a LoRA ``adapter`` that its engines have loaded by that name.

    ``identity`` says which adapter it is, beside its name.
    """

    base: str
    adapter: str
    identity: str = ""


class AdaptedModels:
    """The adapters among a client's models, by the names that calls use. Any other name stands for itself."""

    def __init__(self, models: Mapping[str, object]) -> None:
        self._adapted = {name: one for name, one in models.items() if isinstance(one, AdaptedModel)}

    @property
    def names(self) -> frozenset[str]:
        """The names that are adapters."""
        return frozenset(self._adapted)

    def base(self, name: str) -> str:
        """Return the name of the model whose engine answers."""
        return self._adapted[name].base if name in self._adapted else name

    def identity(self, name: str) -> str:
        """Return which adapter it is, of one that is one."""
        return self._adapted[name].identity

    def under(self, request: GenerateRequest, name: str) -> GenerateRequest:
        """Return the request as the base's engine is asked it; raises ``UnsupportedFeatureError`` for two adapters."""
        if name not in self._adapted:
            return request
        adapter = self._adapted[name].adapter
        if request.adapter not in (None, adapter):
            raise UnsupportedFeatureError(
                f"{name!r} is the adapter {adapter!r}, and the request names {request.adapter!r} beside it.",
                remedy="Name the model alone: one call runs under one adapter.",
            )
        return replace(request, adapter=adapter)

    def resident(self, name: str, base: Resident) -> Resident:
        """Return how a model stands to memory; an adapter takes none beside its base's."""
        if name not in self._adapted:
            return base
        return Resident(name, base.loaded, base.state, 0, 0, None, adapter_of=base.name)
