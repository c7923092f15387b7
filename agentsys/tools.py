"""Tools: functions that agents may call through the gateway, with what the gateway must know about them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, get_type_hints

from pydantic import BaseModel, ConfigDict, TypeAdapter, create_model

from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import NOBODY, PUBLIC, Label, Readers
from agentsys.errors import ConfigurationError, RunError
from agentsys.memoisation import Memoise
from agentsys.secrets import NO_SECRETS, UNDO, SecretReference, Secrets, as_parameter
from agentsys.threads import call_foreign, within

IDEMPOTENCY_KEY = "idempotency_key"
DEFAULT_TIMEOUT = 60.0

ToolFunction = Callable[..., Any]
OutcomeQuery = Callable[[str], Any]


class ToolError(RunError):
    """A tool's function failed, and says more of it than its message.

    ``unknown``: the call may have taken effect all the same. ``label``: who shaped the message, beside the tool's
    source.
    """

    code = "AGS-0633"
    remedy = "The tool's own message says why; catch ToolFailed in the agent to go on without the result."
    unknown: ClassVar[bool] = False
    label: Label | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function and its declaration.

    ``parameters`` validates the arguments. A ``consequential`` tool changes something outside; it is called only under
    trusted influence. ``audience`` learns the arguments. ``source`` is the label of what the function brings in from
    outside its arguments (``None``: nothing). ``query``, for a ``QUERYABLE`` tool, tells by idempotency key what became
    of a call: its result, or ``None`` if the call never happened. ``undo``, of a ``COMPENSABLE`` one, is the tool that
    takes a call back. ``timeout`` is in seconds. ``memo``, of a ``PURE`` one, lets equal calls be made once.
    ``own_words`` says that whoever runs the runtime wrote the description, and no foreign server.
    """

    name: str
    function: ToolFunction
    parameters: type[BaseModel]
    effect_class: EffectClass
    consequential: bool
    audience: Readers
    source: Label | None
    timeout: float = DEFAULT_TIMEOUT
    query: OutcomeQuery | None = None
    description: str = ""
    undo: Tool | None = None
    memo: Memoise | None = None
    own_words: bool = True

    def arguments(self, given: dict[str, Any]) -> dict[str, Json]:
        """Return the arguments as JSON, validated. Raises pydantic's ``ValidationError``."""
        document: dict[str, Json] = self.parameters.model_validate(given).model_dump(mode="json")
        return document

    def secrets_in(self, arguments: dict[str, Json]) -> list[str]:
        """Return the names of the secrets that validated ``arguments`` refer to."""
        if not any(isinstance(value, dict) and "secret" in value for value in arguments.values()):
            return []
        values = dict(self.parameters.model_validate(arguments)).values()
        return [value.secret for value in values if isinstance(value, SecretReference)]

    async def invoke(self, arguments: dict[str, Json], idempotency_key: str, secrets: Secrets = NO_SECRETS) -> Any:
        """Call the function, with the values of the secrets that ``arguments`` refer to; a plain one runs in a thread.

        Raises what it raises, ``TimeoutError``, and what :meth:`Secrets.resolve` raises.
        """
        model = self.parameters.model_validate(arguments)
        # With the arguments that a model without fields of its own lets through.
        values = dict(model)
        for name, value in values.items():
            if isinstance(value, SecretReference):
                values[name] = secrets.resolve(self.name, value)
        if IDEMPOTENCY_KEY in inspect.signature(self.function).parameters:
            values[IDEMPOTENCY_KEY] = idempotency_key
        return await within(self.timeout, call_foreign(self.function, **values))


def tool(
    *,
    effect: EffectClass = EffectClass.IRREVERSIBLE,
    name: str | None = None,
    consequential: bool | None = None,
    audience: Readers | None = None,
    source: Label | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    query: OutcomeQuery | None = None,
    undo: ToolFunction | None = None,
    memo: Memoise | None = None,
) -> Callable[[ToolFunction], Tool]:
    """Turn a function with type hints into a tool. What is not declared is taken at its worst.

    ``undo`` takes back a compensable call. It gets those of the call's arguments that it has parameters for, and the
    call's result if it has a parameter ``result``; it must be safe to repeat under one ``idempotency_key``. ``memo``
    lets equal calls of a pure tool, under equal labels, be made once (see :mod:`agentsys.memoisation`).

    An undeclared effect is irreversible. Unless said otherwise, a pure tool has no consequence, tells nobody its
    arguments and brings nothing in; any other tool is consequential, tells everybody, and its result is external.
    """
    pure = effect is EffectClass.PURE
    if effect is EffectClass.QUERYABLE and query is None:
        raise ConfigurationError(
            "A queryable tool has no query function.",
            remedy="Pass query=, a function from an idempotency key to the call's result or None.",
        )

    if (effect is EffectClass.COMPENSABLE) != (undo is not None):
        raise ConfigurationError(
            "A compensable tool needs an undo function, and no other tool has one.",
            remedy="Pass effect=EffectClass.COMPENSABLE together with undo=.",
        )

    if memo is not None and not pure:
        raise ConfigurationError(
            f"Calls of a tool whose effect is {effect} cannot be answered from memory.",
            remedy="Declare effect=EffectClass.PURE if a call changes nothing and tells nothing new, or drop memo=.",
        )

    def decorate(function: ToolFunction) -> Tool:
        named = name or str(getattr(function, "__name__", "tool"))
        made = replace(declared(function, named, effect), memo=memo)
        return made if undo is None else replace(made, undo=declared(undo, f"{UNDO}{named}", EffectClass.IDEMPOTENT))

    def declared(function: ToolFunction, named: str, effect: EffectClass) -> Tool:
        return Tool(
            name=named,
            function=function,
            parameters=_parameters_of(function, named),
            effect_class=effect,
            consequential=not pure if consequential is None else consequential,
            audience=audience or (NOBODY if pure else PUBLIC),
            source=source or (None if pure else Label()),
            timeout=timeout,
            query=query,
            description=inspect.getdoc(function) or "",
        )

    return decorate


def to_json(value: Any) -> Json:
    """Return ``value`` as JSON: pydantic models, dataclasses, dates and the like are converted."""
    document: Json = TypeAdapter(Any).dump_python(value, mode="json")
    return document


def _parameters_of(function: ToolFunction, name: str) -> type[BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == IDEMPOTENCY_KEY:
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) or parameter.name not in hints:
            raise ConfigurationError(
                f"The parameter {parameter} of tool {name!r} has no type hint or is variadic.",
                remedy="Give every parameter of a tool a name and a type hint.",
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (as_parameter(hints[parameter.name]), default)
    return create_model(f"{name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)


class ToolSource(Protocol):
    """Tools that others have, whose names all begin with ``prefix``. To learn which they are may take a connection."""

    prefix: str

    def known(self) -> Mapping[str, Tool]:
        """Return the tools known now, by name, without waiting for anybody."""

    async def discover(self, name: str | None = None) -> None:
        """Learn which tools there are; raise an :class:`AgentsysError` that says why ``name`` cannot be had."""

    async def close(self) -> None:
        """Let go of what is held open."""


class ToolRegistry:
    """The tools of a runtime by name, its own and those of its sources."""

    def __init__(self, tools: Iterable[Tool] = ()) -> None:
        self._tools: dict[str, Tool] = {}
        self._sources: list[ToolSource] = []
        for member in tools:
            if member.name in self._tools:
                raise ConfigurationError(f"Two tools are named {member.name!r}.", remedy="Give each its own name.")
            self._tools[member.name] = member

    def attach(self, source: ToolSource) -> None:
        """Add a source. Its prefix must be no other's, and no tool's name may begin with it."""
        prefixes = [other.prefix for other in self._sources]
        taken = [name for name in [*self._tools, *prefixes] if name.startswith(source.prefix)]
        if taken or any(source.prefix.startswith(prefix) for prefix in prefixes):
            raise ConfigurationError(
                f"The tools of {source.prefix!r} could not be told from {', '.join(taken or prefixes)}.",
                remedy="Rename one of them.",
            )
        self._sources.append(source)

    def get(self, name: str) -> Tool | None:
        """Return the tool if it is known now."""
        source = self._source_of(name)
        return self._tools.get(name) if source is None else source.known().get(name)

    async def find(self, name: str) -> Tool | None:
        """Return the tool, asking its source where it is not known. Raises what the source does."""
        source, found = self._source_of(name), self.get(name)
        if found is None and source is not None:
            await source.discover(name)
        return found or self.get(name)

    async def discover(self) -> None:
        """Ask the sources that know of no tool yet; one that cannot be had stays without, and says why when called."""
        asking = [source.discover() for source in self._sources if not source.known()]
        await asyncio.gather(*asking, return_exceptions=True)

    def names(self) -> list[str]:
        return sorted([*self._tools, *(name for source in self._sources for name in source.known())])

    async def close(self) -> None:
        """Close the sources, also where one of them fails to."""
        async with AsyncExitStack() as closing:
            for source in self._sources:
                closing.push_async_callback(source.close)

    def _source_of(self, name: str) -> ToolSource | None:
        return next((source for source in self._sources if name.startswith(source.prefix)), None)
