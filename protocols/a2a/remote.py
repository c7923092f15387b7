"""Foreign A2A agents as volunteers: they bid from their card, and are asked through the gateway."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, Final

from a2a.types.a2a_pb2 import AgentSkill

from agentsys.agents import Agent, Bid, Request
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.entries import Json, canonical_json
from agentsys.blackboard.labels import OWNER, PUBLIC, Label, Readers
from agentsys.context import Context
from agentsys.egress import EgressError, host_of
from agentsys.labelled import Labelled
from agentsys.protocols.a2a.answers import Answer
from agentsys.protocols.a2a.client import AnswerLost, Peer, PeerUnreachable, find_peer
from agentsys.protocols.a2a.errors import A2AError
from agentsys.protocols.a2a.labels import label_from_peer, principal_of
from agentsys.sections import A2ASettings
from agentsys.tools import Tool, tool

REMOTE_TIMEOUT: Final = 120.0
"""Seconds a foreign agent has for one answer."""

AWAY_SECONDS: Final = 30.0
"""Seconds after which an agent whose card could not be had is looked for again."""

_WORD = re.compile(r"[^\W_]{3,}")


class RemoteAgent(Agent):
    """A foreign agent. Register it with the runtime, and its ``tool`` too, through which alone it is asked.

    To ask is to disclose: the gateway lets a request pass only if its label may be read by ``principal``, the name
    under which the peer learns and speaks. ``audience`` is that name after ``a2a:``, by default the host of ``url``.
    ``hosts`` may be connected to besides it. ``consequential`` says that asking changes something, so that only trusted
    data may lead to it; ``effect``, whether a crash may repeat a request; ``timeout`` is in seconds.

    The card is fetched when it is first needed: a peer that is away keeps nobody from starting.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str,
        kinds: Iterable[str],
        audience: str | None = None,
        hosts: Iterable[str] = (),
        token: str | None = None,
        insecure: bool = False,
        owner: str = OWNER,
        effect: EffectClass = EffectClass.IRREVERSIBLE,
        consequential: bool = False,
        timeout: float = REMOTE_TIMEOUT,
    ) -> None:
        self.name = name
        self.interests = frozenset(kinds)
        self.profile = f"foreign agent at {url}"
        self.principal = principal_of(audience or host_of(url))
        self._find = partial(find_peer, url, hosts=frozenset(hosts), token=token, insecure=insecure)
        self._peer: Peer | None = None
        self._away: tuple[float, A2AError | EgressError] | None = None
        self.tool = self._make_tool(owner, effect, consequential, timeout)

    async def peer(self) -> Peer:
        """Return the peer with its card. Raises :class:`PeerUnreachable`, :class:`EgressDenied`."""
        if self._away is not None and time.monotonic() < self._away[0]:
            raise self._away[1]
        if self._peer is None:
            try:
                self._peer = await self._find()
            except (A2AError, EgressError) as error:
                # Or every round would wait for it again.
                self._away = time.monotonic() + AWAY_SECONDS, error
                raise
            self.profile = self._peer.card.description
        return self._peer

    async def volunteer(self, request: Request) -> Bid | None:
        """Bid by how many of the request's words the card's best skill knows; nothing of the request leaves for it."""
        skill, score = best_skill((await self.peer()).card.skills, request.kind, request.value)
        if score == 0.0:
            return None
        label = Label(frozenset({self.principal}), PUBLIC)
        return Bid(self.name, score, f"skill {skill}", value=skill, cost=10.0, label=label)

    async def act(self, context: Context, request: Request) -> Any:
        """Ask the peer. Raises :class:`PolicyDenied` where the request's label forbids it to learn the request."""
        return await context.call(self.tool.name, kind=request.kind, value=request.value)

    async def _ask(self, kind: str, value: Json, message_id: str) -> Answer:
        peer = await self.peer()
        # Chosen here and not by the agent: a changed card must not make a resumed run diverge from its record.
        skill, _ = best_skill(peer.card.skills, kind, value)
        try:
            return await peer.ask(value, message_id=message_id, skill=skill)
        except (PeerUnreachable, AnswerLost):
            # The card may be out of date.
            self._peer = None
            raise

    def _make_tool(self, owner: str, effect: EffectClass, consequential: bool, timeout: float) -> Tool:
        name = self.principal.removeprefix(principal_of(""))
        source = label_from_peer(name, owner, {})

        async def ask(kind: str, value: Json, idempotency_key: str) -> Labelled[Json]:
            """Ask the foreign agent."""
            answer = await self._ask(kind, value, idempotency_key)
            labels = [label_from_peer(name, owner, metadata) for metadata in answer.metadata]
            return Labelled(answer.value, source.join(*labels))

        declare = tool(
            name=f"ask_{self.name}",
            effect=effect,
            consequential=consequential,
            audience=Readers.of(self.principal),
            source=source,
            timeout=timeout,
        )
        return declare(ask)


async def remote_agent(url: str, *, kinds: Iterable[str], name: str | None = None, **arguments: Any) -> RemoteAgent:
    """Fetch the card at ``url`` and return its agent, named like the card unless ``name`` is given.

    The rest is of :class:`RemoteAgent`. Raises :class:`PeerUnreachable`, :class:`EgressDenied`.
    """
    agent = RemoteAgent(url, name=name or "remote", kinds=kinds, **arguments)
    card = (await agent.peer()).card
    if name is not None:
        return agent
    called = re.sub(r"[^A-Za-z0-9_.-]+", "-", card.name).strip("-.") or "remote"
    return RemoteAgent(url, name=called, kinds=kinds, **arguments)


def remote_agents(settings: A2ASettings, *, owner: str = OWNER) -> list[RemoteAgent]:
    """Return the agents of the settings, without connecting yet."""
    return [
        RemoteAgent(
            wanted.url,
            name=name,
            kinds=wanted.kinds,
            audience=wanted.audience,
            hosts=wanted.hosts,
            token=wanted.token.get_secret_value() if wanted.token else None,
            owner=owner,
            effect=EffectClass.IDEMPOTENT if wanted.repeatable else EffectClass.IRREVERSIBLE,
            consequential=wanted.consequential,
            timeout=wanted.timeout,
        )
        for name, wanted in sorted(settings.agents.items())
    ]


def best_skill(skills: Iterable[AgentSkill], kind: str, value: Json) -> tuple[str | None, float]:
    """Return the skill that knows most of a request's words, and the share it knows: all, if it is named ``kind``."""
    vocabularies = {skill.id: _words(_text(skill)) for skill in skills}
    if kind in vocabularies:
        return kind, 1.0
    asked = _words(f"{kind} {canonical_json(value)}")
    scores = {skill: len(asked & known) / len(asked) for skill, known in vocabularies.items() if asked}
    best = max(scores, key=lambda skill: (scores[skill], skill), default=None)
    return best, scores[best] if best is not None else 0.0


def _text(skill: AgentSkill) -> str:
    return " ".join([skill.id, skill.name, skill.description, *skill.tags, *skill.examples])


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text.lower()))
