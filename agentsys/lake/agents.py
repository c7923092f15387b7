"""The agents that own a lake's families: each volunteers from an index and answers with what its files hold."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from agentsys.agents import Agent, Bid, Request
from agentsys.blackboard.entries import Json
from agentsys.context import Context
from agentsys.lake.index import FamilyScore
from agentsys.lake.lake import Lake
from agentsys.lake.profiles import Family
from agentsys.lake.tools import DESCRIBE_FAMILY

DATA_REQUEST = "data"
"""Kind of the requests that family agents answer; the value is ``{"question": text}``."""

_REMEMBERED_QUESTIONS = 64


class Offers:
    """Which families of a lake volunteer for a question, worked out once a question for all of their agents."""

    def __init__(self, lake: Lake) -> None:
        self._index = lake.index
        self._offers = lru_cache(maxsize=_REMEMBERED_QUESTIONS)(self._rank)

    def of(self, family: str, question: str) -> FamilyScore | None:
        """Return the family's claim to ``question``, or ``None`` if it stays silent."""
        return self._offers(question).get(family)

    def _rank(self, question: str) -> Mapping[str, FamilyScore]:
        return {score.family.name: score for score in self._index.offer(question)}


class FamilyAgent(Agent):
    """Owns one family of files. Its bid needs no model: schema, statistics and BM25 over names, headers and values."""

    interests = frozenset({DATA_REQUEST})

    def __init__(self, family: Family, offers: Offers) -> None:
        self.family = family
        self.name = f"files.{family.name}"
        self.profile = family.description
        self._offers = offers

    async def volunteer(self, request: Request) -> Bid | None:
        claim = self._offers.of(self.family.name, question_of(request))
        if claim is None:
            return None
        reason = f"matches {', '.join(claim.reasons)}"
        return Bid(self.name, claim.score, reason, {"files": list(claim.files)}, label=self.family.label)

    async def act(self, context: Context, request: Request) -> Json:
        question = question_of(request)
        described = await context.call(DESCRIBE_FAMILY, family=self.family.name, question=question)
        claim = self._offers.of(self.family.name, question)
        return {
            "family": self.family.name,
            "score": claim.score if claim else 0.0,
            "files": list(claim.files) if claim else [],
            "schema": described.value,
        }


def question_of(request: Request) -> str:
    """Return the question of a data request, or an empty text for a request of another shape."""
    value = request.value
    return str(value.get("question", "")) if isinstance(value, dict) else ""


def family_agents(lake: Lake) -> list[FamilyAgent]:
    """Return one agent for each family of the lake."""
    offers = Offers(lake)
    return [FamilyAgent(family, offers) for family in lake.families]
