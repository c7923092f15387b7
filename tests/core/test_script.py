"""`agentsys.run`: one workflow from synchronous code."""

import pytest

import agentsys
from agentsys.testing import ScriptedModel


async def shout(context, name):
    return (await context.generate(f"Shout {name}")).value.upper()


@pytest.fixture(autouse=True)
def scripted(monkeypatch):
    """A scripted model stands in for the settings' one."""
    opened = agentsys.Runtime.from_settings

    def from_settings(settings, **arguments):
        runtime = opened(settings, **arguments)
        runtime.model = ScriptedModel(lambda prompt: "ada!")
        return runtime

    monkeypatch.setattr(agentsys.Runtime, "from_settings", staticmethod(from_settings))


def test_it_returns_the_result(tmp_path):
    result = agentsys.run(shout, "Ada", board=tmp_path / "board.db")
    assert (result.status, result.value) == ("done", "ADA!")


async def test_it_works_where_an_event_loop_runs_already(tmp_path):
    assert agentsys.run(shout, "Ada", board=tmp_path / "board.db").value == "ADA!"


def test_errors_come_through(tmp_path):
    with pytest.raises(agentsys.AgentsysError, match="not made of letters"):
        agentsys.run(agentsys.Workflow("a b", shout), board=tmp_path / "board.db")


async def test_errors_come_through_a_running_loop(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(agentsys.AgentsysError):
        agentsys.run(shout, "Ada", board=tmp_path / "file" / "board.db")
