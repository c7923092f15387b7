"""From what a model wrote as an argument to what is passed: constants, handles, and what a quarantined model reads."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from agentsys.context import Context
from agentsys.gateway import PolicyDenied
from agentsys.handles import Handle
from agentsys.planning.turns import BadTurn, Reference, as_reference
from agentsys.policy.policy import Policy
from agentsys.policy.rules import ArgumentRule


class Text(BaseModel):
    """What a quarantined model reads where nothing bounds it."""

    value: str | None


class Binding:
    """The hidden results that a model may refer to, by name."""

    def __init__(self, context: Context, policy: Policy, model: str | None) -> None:
        self._context = context
        self._policy = policy
        self._model = model
        self._known: dict[str, Handle] = {}

    def remember(self, handle: Handle) -> None:
        self._known[handle.name] = handle

    def find(self, reference: Reference) -> Handle:
        """Return the part that a reference names. Raises :class:`BadTurn` for a name that nothing has."""
        unknown = [name for name in reference.names if name not in self._known]
        if unknown or not reference.names:
            raise BadTurn(f"nothing hidden is named {', '.join(unknown) or 'so'}")
        handles = [self._known[name] for name in reference.names]
        handle = handles[0] if isinstance(reference.source, str) else self._context.together(*handles)
        for key in reference.path:
            handle = handle[key]
        return handle

    async def argument(self, value: Any, rule: ArgumentRule) -> Any:
        """Return what to pass. Raises :class:`BadTurn`, and what endorsing raises."""
        reference = as_reference(value)
        if reference is not None:
            return await self._read(reference, rule)
        if isinstance(value, list):
            return [await self.argument(item, rule) for item in value]
        if isinstance(value, dict):
            return {key: await self.argument(item, rule) for key, item in value.items()}
        return value

    async def span(self, reference: Reference) -> Handle:
        """Return what to put into an answer."""
        handle = self.find(reference)
        if reference.by:
            return await self._endorsed(handle, reference.ask, (reference.by,))
        return await self._ask(handle, reference.ask) if reference.ask else handle

    async def _read(self, reference: Reference, rule: ArgumentRule) -> Handle:
        handle = self.find(reference)
        if rule.role == "payload" or not rule.endorsers:
            return await self._ask(handle, reference.ask) if reference.ask else handle
        if not reference.ask and self._policy.trusts(handle.label, rule.endorsers):
            return handle
        chosen = (reference.by,) if reference.by in rule.endorsers else rule.endorsers
        return await self._endorsed(handle, reference.ask, chosen)

    async def _endorsed(self, handle: Handle, question: str, endorsers: tuple[str, ...]) -> Handle:
        """Return the part as the first endorser lets it through that may be used at all."""
        for number, endorser in enumerate(endorsers):
            try:
                if question:
                    return await self._context.choose(handle, endorser, question, model=self._model)
                return await self._context.endorse(handle, endorser)
            except PolicyDenied:
                if number == len(endorsers) - 1:
                    raise
        raise AssertionError("an argument without endorsers is not endorsed")

    async def _ask(self, handle: Handle, question: str) -> Handle:
        return (await self._context.extract(handle, Text, question=question, model=self._model))["value"]
