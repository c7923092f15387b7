"""The main job: a question over a lake, answered by agents that own its files.

``discover`` posts an un-addressed request and collects what the volunteering family agents offer; ``choose`` grants
families; ``plan`` lets the model write a query plan, or say what data it still needs, which posts another request;
``query`` runs the plan through the gateway, and a refused plan goes back to ``plan`` as long as attempts are left.
"""

from __future__ import annotations

import json
from typing import Any, Literal, TypedDict, cast

from langgraph.graph import END, START, StateGraph
from langgraph.runtime import Runtime

from agentsys.blackboard.entries import Json
from agentsys.context import Context
from agentsys.errors import RunError
from agentsys.lake.agents import DATA_REQUEST
from agentsys.lake.planners import Offer, Planner
from agentsys.lake.queries.plan import unfenced
from agentsys.lake.tools import RUN_QUERY
from agentsys.tool_calls import ToolFailed
from agentsys.workflow import Workflow

ASK = "ask"
MAX_FAMILIES = 16
"""Families that may answer one request."""

MAX_NEEDS = 3
"""Further requests that one question may lead to."""


class NothingVolunteered(RunError):
    """No family of the lake matches the question."""

    code = "AGS-0640"
    remedy = "Use words that stand in file names, headers or values; skipped files are named where the lake is opened."


class NoPlanWorked(RunError):
    """Every plan the model wrote was refused or failed."""

    code = "AGS-0641"
    remedy = "Point --model at a better model, or ask a simpler question."


class AskState(TypedDict, total=False):
    """State of the graph; everything in it is JSON."""

    question: str
    needs: list[str]
    offers: list[dict[str, Any]]
    granted: list[str]
    plan: str
    refused: list[list[str]]
    answer: dict[str, Any]


class Analyst:
    """The nodes of the workflow."""

    def __init__(self, planner: Planner) -> None:
        self._planner = planner

    async def discover(self, state: AskState, runtime: Runtime[Any]) -> AskState:
        context: Context = runtime.context
        wanted = [state["question"], *state.get("needs", [])][-1]
        outcome = await context.ask(DATA_REQUEST, {"question": wanted}, max_volunteers=MAX_FAMILIES)
        known = state.get("offers", [])
        names = {offer["family"] for offer in known}
        found = [cast("dict[str, Any]", response.value) for response in outcome.answers]
        offers = known + [offer for offer in found if offer["family"] not in names]
        if not offers:
            raise NothingVolunteered(f"Nothing in the lake answers {wanted!r}: {outcome.describe()}.")
        return {"offers": sorted(offers, key=lambda offer: -offer["score"]), "refused": state.get("refused", [])}

    async def choose(self, state: AskState, runtime: Runtime[Any]) -> AskState:
        granted = await self._planner.choose(runtime.context, state["question"], _offers(state))
        return {"granted": granted}

    async def plan(self, state: AskState, runtime: Runtime[Any]) -> AskState:
        offers = [offer for offer in _offers(state) if offer.family in state["granted"]]
        refused = [(text, fault) for text, fault in state["refused"]]
        plan = await self._planner.plan(runtime.context, state["question"], offers, refused)
        need = needed(plan.value)
        if need is None:
            return {"plan": plan.value}
        needs = state.get("needs", [])
        if len(needs) == MAX_NEEDS:
            raise NoPlanWorked(f"After {MAX_NEEDS} further requests the model still needs {need!r}.")
        return {"plan": "", "needs": [*needs, need]}

    async def query(self, state: AskState, runtime: Runtime[Any]) -> AskState:
        try:
            result = await runtime.context.call(RUN_QUERY, plan=state["plan"], families=state["granted"])
        except ToolFailed as failure:
            refused = [*state["refused"], [state["plan"], failure.message]]
            if len(refused) >= self._planner.attempts:
                raise NoPlanWorked(f"{len(refused)} plans failed; the last one: {failure.message}") from failure
            return {"refused": refused}
        offered = [{key: offer[key] for key in ("family", "score", "files")} for offer in state["offers"]]
        found = cast("dict[str, Any]", result.value)
        return {"answer": {"answer": short_answer(found), "plan": state["plan"], "offered": offered, **found}}


def ask_workflow(planner: Planner, *, deadline: float | None = None) -> Workflow:
    """Return the workflow; its input is ``{"question": text}``, its answer a JSON object.

    The answer holds ``answer`` (see :func:`short_answer`), ``columns``, ``rows``, ``truncated``, ``plan``,
    ``sources`` (family, files, columns), ``derivation`` and ``offered``. ``deadline`` is in seconds from the start.
    """
    analyst = Analyst(planner)
    graph = StateGraph(AskState)
    for name in ("discover", "choose", "plan", "query"):
        graph.add_node(name, getattr(analyst, name))
    graph.add_edge(START, "discover")
    graph.add_edge("discover", "choose")
    graph.add_edge("choose", "plan")
    graph.add_conditional_edges("plan", _after_plan, ["discover", "query"])
    graph.add_conditional_edges("query", _after_query, ["plan", END])
    return Workflow(ASK, graph, deadline=deadline, output="answer")


def short_answer(result: dict[str, Any]) -> Json:
    """Return a one-cell result as its value, a one-column result as a list, any other as its rows."""
    rows = result["rows"]
    if len(result["columns"]) == 1:
        values = [row[0] for row in rows]
        return values[0] if len(values) == 1 else values
    return [list(row) for row in rows]


def needed(plan: str) -> str | None:
    """Return what data a model asks for instead of writing a plan (``{"need": text}``), or ``None``."""
    body = unfenced(plan)
    if not body.startswith("{"):
        return None
    try:
        need = json.loads(body).get("need")
    except (ValueError, RecursionError):
        return None
    return need if isinstance(need, str) and need else None


def _after_plan(state: AskState) -> Literal["discover", "query"]:
    return "query" if state["plan"] else "discover"


def _after_query(state: AskState) -> Literal["plan", "__end__"]:
    return "__end__" if "answer" in state else "plan"


def _offers(state: AskState) -> list[Offer]:
    return [Offer(offer["family"], offer["score"], offer["schema"]) for offer in state["offers"]]
