"""Foreign A2A agents as volunteers: they bid from their card, and are asked through the gateway."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from a2a.types.a2a_pb2 import AgentSkill

from agentsys.agents import Agent, Bid, Request
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.entries import Json, canonical_json
from agentsys.blackboard.labels import OWNER, PUBLIC, Label, Readers
from agentsys.context import Context
from agentsys.labelled import Labelled
from agentsys.protocols.a2a.client import Peer, find_peer
from agentsys.protocols.a2a.egress import host_of
from agentsys.protocols.a2a.errors import A2AError
from agentsys.protocols.a2a.labels import label_from_peer
from agentsys.settings import A2ASettings, RemoteAgentSettings
from agentsys.tools import Tool, tool

REMOTE_TIMEOUT: Final = 120.0
"""Seconds a foreign agent has for one answer."""

_WORD = re.compile(r"[^\W_]{3,}")


class RemoteAgent(Agent):
    """A foreign agent. Register it with the runtime, and its ``tool`` too, through which alone it is asked.

    To ask is to disclose: the gateway lets a request pass only if its label may be read by ``principal``, the name
    under which the peer learns and speaks. Whether the peer may be asked under foreign influence is the tool's
    ``consequential``.
    """

    def __init__(
        self,
        peer: Peer,
        *,
        name: str,
        kinds: Iterable[str],
        principal: str,
        owner: str = OWNER,
        effect: EffectClass = EffectClass.IRREVERSIBLE,
        consequential: bool = False,
        timeout: float = REMOTE_TIMEOUT,
    ) -> None:
        self.name = name
        self.interests = frozenset(kinds)
        self.profile = peer.card.description
        self.principal = f"a2a:{principal}"
        self.peer = peer
        self._vocabularies = {skill.id: _words(_text(skill)) for skill in peer.card.skills}

        @tool(
            name=f"ask_{name}",
            effect=effect,
            consequential=consequential,
            audience=Readers.of(self.principal),
            source=label_from_peer(principal, owner, {}),
            timeout=timeout,
        )
        async def ask(kind: str, value: Json, idempotency_key: str) -> Labelled[Json]:
            # Chosen here and not by the agent: a changed card must not make a resumed run diverge from its record.
            skill, _ = self._best_skill(kind, value)
            answer = await peer.ask(value, message_id=idempotency_key, skill=skill)
            labels = [label_from_peer(principal, owner, metadata) for metadata in answer.metadata]
            return Labelled(answer.value, label_from_peer(principal, owner, {}).join(*labels))

        self.tool: Tool = ask

    async def volunteer(self, request: Request) -> Bid | None:
        """Bid by how many of the request's words the card's best skill knows; nothing leaves the machine for it."""
        skill, score = self._best_skill(request.kind, request.value)
        if score == 0.0:
            return None
        label = Label(frozenset({self.principal}), PUBLIC)
        return Bid(self.name, score, f"skill {skill}", value=skill, cost=10.0, label=label)

    async def act(self, context: Context, request: Request) -> Any:
        """Ask the peer. Raises :class:`PolicyDenied` where the request's label forbids it to learn the request."""
        return await context.call(self.tool.name, kind=request.kind, value=request.value)

    def _best_skill(self, kind: str, value: Json) -> tuple[str | None, float]:
        if kind in self._vocabularies:
            return kind, 1.0
        asked = _words(f"{kind} {canonical_json(value)}")
        scores = {skill: len(asked & known) / len(asked) for skill, known in self._vocabularies.items() if asked}
        best = max(scores, key=lambda skill: (scores[skill], skill), default=None)
        return best, scores[best] if best is not None else 0.0


async def remote_agent(
    url: str,
    *,
    kinds: Iterable[str],
    name: str | None = None,
    audience: str | None = None,
    hosts: Iterable[str] = (),
    token: str | None = None,
    insecure: bool = False,
    **arguments: Any,
) -> RemoteAgent:
    """Fetch the card at ``url`` and return its agent, which answers requests of ``kinds``.

    ``name`` is by default the card's. ``audience`` is the name that labels use for the peer after ``a2a:``, by default
    its host. ``hosts`` may be connected to besides the card's. The rest is of :class:`RemoteAgent`. Raises
    :class:`PeerUnreachable`, :class:`EgressDenied`.
    """
    peer = await find_peer(url, hosts=frozenset(hosts), token=token, insecure=insecure)
    called = name or re.sub(r"[^A-Za-z0-9_.-]+", "-", peer.card.name).strip("-.") or "remote"
    return RemoteAgent(peer, name=called, kinds=kinds, principal=audience or host_of(url), **arguments)


async def remote_agents(
    settings: A2ASettings, *, owner: str = OWNER, failed: Callable[[str, A2AError], None]
) -> list[RemoteAgent]:
    """Return the agents of the settings. ``failed`` is told of one that is away, and the others serve without it."""

    async def connect(name: str, wanted: RemoteAgentSettings) -> RemoteAgent | None:
        try:
            return await remote_agent(
                wanted.url,
                kinds=wanted.kinds,
                name=name,
                audience=wanted.audience,
                hosts=wanted.hosts,
                token=wanted.token.get_secret_value() if wanted.token else None,
                owner=owner,
                effect=EffectClass.IDEMPOTENT if wanted.repeatable else EffectClass.IRREVERSIBLE,
                consequential=wanted.consequential,
                timeout=wanted.timeout,
            )
        except A2AError as error:
            failed(name, error)
            return None

    found = await asyncio.gather(*(connect(name, wanted) for name, wanted in sorted(settings.agents.items())))
    return [agent for agent in found if agent is not None]


def _text(skill: AgentSkill) -> str:
    return " ".join([skill.id, skill.name, skill.description, *skill.tags, *skill.examples])


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))
