"""agentsys: teams of LLM agents that work together over one shared, labelled, transactional blackboard."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentsys.agents import Agent, Bid, Request, agent
    from agentsys.blackboard.board import Board
    from agentsys.blackboard.effects import EffectClass
    from agentsys.blackboard.labels import NOBODY, PUBLIC, Label, Readers
    from agentsys.context import Context
    from agentsys.errors import AgentsysError
    from agentsys.handles import Handle
    from agentsys.labelled import Labelled
    from agentsys.lake.lake import Lake
    from agentsys.memoisation import Memoise
    from agentsys.planning.planner import plan, planning_workflow
    from agentsys.policy.documents import load_policy
    from agentsys.policy.policy import Policy
    from agentsys.runs import RunResult
    from agentsys.runtime import Runtime
    from agentsys.script import run
    from agentsys.serving.client import ServingClient
    from agentsys.tools import Tool, tool
    from agentsys.workflow import Workflow

_HOMES = {
    "NOBODY": "agentsys.blackboard.labels",
    "PUBLIC": "agentsys.blackboard.labels",
    "Readers": "agentsys.blackboard.labels",
    "Agent": "agentsys.agents",
    "AgentsysError": "agentsys.errors",
    "Bid": "agentsys.agents",
    "Board": "agentsys.blackboard.board",
    "Context": "agentsys.context",
    "EffectClass": "agentsys.blackboard.effects",
    "Handle": "agentsys.handles",
    "Label": "agentsys.blackboard.labels",
    "Labelled": "agentsys.labelled",
    "Lake": "agentsys.lake.lake",
    "Memoise": "agentsys.memoisation",
    "Policy": "agentsys.policy.policy",
    "Request": "agentsys.agents",
    "RunResult": "agentsys.runs",
    "Runtime": "agentsys.runtime",
    "ServingClient": "agentsys.serving.client",
    "Tool": "agentsys.tools",
    "Workflow": "agentsys.workflow",
    "agent": "agentsys.agents",
    "load_policy": "agentsys.policy.documents",
    "plan": "agentsys.planning.planner",
    "planning_workflow": "agentsys.planning.planner",
    "run": "agentsys.script",
    "tool": "agentsys.tools",
}

__all__ = [
    "Agent",
    "AgentsysError",
    "Bid",
    "Board",
    "Context",
    "EffectClass",
    "Handle",
    "Label",
    "Labelled",
    "Lake",
    "Memoise",
    "NOBODY",
    "PUBLIC",
    "Policy",
    "Readers",
    "Request",
    "RunResult",
    "Runtime",
    "ServingClient",
    "Tool",
    "Workflow",
    "agent",
    "load_policy",
    "plan",
    "planning_workflow",
    "run",
    "tool",
]


def __getattr__(name: str) -> Any:
    # Loaded on first use: importing agentsys must not import torch, DuckDB or LangGraph.
    if name not in _HOMES:
        raise AttributeError(f"module 'agentsys' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
