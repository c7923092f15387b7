from __future__ import annotations

import subprocess
import sys

import pytest

import agentsys

EXPORTS = [
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


def test_the_exports_are_these_and_sorted():
    assert agentsys.__all__ == EXPORTS == sorted(EXPORTS)
    assert set(EXPORTS) <= set(dir(agentsys))


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_is_there(name):
    exported = getattr(agentsys, name)
    assert isinstance(exported, agentsys.Readers) if name.isupper() else exported.__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = agentsys.nothing


def test_importing_the_runtime_loads_no_heavy_library():
    heavy = ["torch", "transformers", "langgraph", "langchain_core", "duckdb", "pyarrow", "llguidance"]
    code = f"import agentsys.runtime, sys; print([name for name in {heavy} if name in sys.modules])"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"
