"""The read models over HTTP: the client gets what the views compute, without what a label keeps from the owner."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pkgutil
import time
import typing

import httpx
import pytest

import agentsys.views
from agentsys.agents import Bid, FunctionAgent
from agentsys.blackboard.effects import EffectClass
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import OWNER, Label, Readers
from agentsys.errors import AgentsysError, ServingError
from agentsys.policy.policy import Policy
from agentsys.protocols.http.client import RuntimeClient, ServerRefused
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.tools import tool
from agentsys.ui.boards import RECORDED
from agentsys.views.commit_list import find_commit, newest_commits
from agentsys.views.entries import list_entries, list_versions
from agentsys.views.provenance import load_provenance
from agentsys.views.run_graph import load_graph
from agentsys.views.run_list import newest_runs
from agentsys.views.run_view import load_run
from agentsys.views.withholding import content, is_content, withhold

SECRET = "pelican"
ANNS = Label.trusted("user:ann", Readers.of("user:ann"))


@tool(effect=EffectClass.PURE)
def shout(text: str) -> str:
    return text.upper()


@tool(effect=EffectClass.PURE)
def stumble(text: str) -> str:
    raise ValueError(f"cannot bear {text}")


async def gathers(context, text):
    """Leave a record of every kind behind, with ``text`` in each value."""
    await context.ask("guess", f"what about {text}?")
    answer = await context.generate(f"about {text}")
    await context.call("shout", text=answer)
    with contextlib.suppress(AgentsysError):
        await context.generate(f"refuse {text}")
    for name, arguments in (("stumble", {"text": text}), (f"missing {text}", {})):
        try:
            await context.call(name, **arguments)
        except Exception as error:
            failed = str(error)
    context.put("notes", "one", [answer, failed], type="note")
    return {"answer": text, "plan": f"plan of {text}", "sources": [], "rows": [[text]], "columns": ["text"]}


def script(prompt):
    if prompt.startswith("refuse"):
        raise ServingError(f"will not say {prompt}")
    return f"said: {prompt}"


async def breaks(context, text):
    raise ValueError(f"cannot bear {text}")


async def guesses(context, request):
    return f"guessed {request.value}"


async def tires(context, request):
    raise RuntimeError(f"tired of {request.value}")


def volunteer(name):
    return lambda request: Bid(name, 0.5, f"likes {request.value}")


@pytest.fixture
def runtime(board) -> Runtime:
    return Runtime(
        board,
        ScriptedModel(script),
        agents=[
            FunctionAgent(function, function.__name__, frozenset({"guess"}), volunteer(function.__name__))
            for function in (guesses, tires)
        ],
        tools=[shout, stumble],
        workflows=[gathers, breaks],
        policy=Policy.of(open_topics=["notes"]),
    )


@pytest.fixture
def console(client) -> typing.Iterator[RuntimeClient]:
    token = client.headers["Authorization"].removeprefix("Bearer ")
    with RuntimeClient(str(client.base_url), token) as opened:
        yield opened


async def test_the_client_gets_what_the_views_compute(console, runtime, board):
    run = (await runtime.run("gathers", SECRET)).run
    await runtime.run("breaks", "x")
    views = console.views
    assert views.board().head == board.head
    assert views.runs() == newest_runs(board, 50, reader=OWNER)
    assert views.run(run) == load_run(board, run)
    assert views.graph(run) == load_graph(board, run)
    assert views.graph(run, at=3) == load_graph(board, run, 3)
    assert views.commits() == newest_commits(board, 200, reader=OWNER)
    assert views.commit(2) == find_commit(board, 2)
    assert views.entries(at=3) == list_entries(board, OWNER, at=3, limit=200)
    assert views.versions("runs", run) == list_versions(board, "runs", run)
    assert len(views.versions("runs", run)) == 2
    assert views.provenance("runs", run) == load_provenance(board, "runs", run)
    assert views.provenance("runs", run, 1).value.endswith("@1")


async def test_runs_are_filtered(console, runtime):
    good, bad = (await runtime.run("gathers", SECRET)).run, (await runtime.run("breaks", "x")).run
    views = console.views
    assert [row.run for row in views.runs(status="failed").rows] == [bad]
    assert [row.run for row in views.runs(workflow="gathers").rows] == [good]
    assert [row.run for row in views.runs(search=SECRET.upper()).rows] == [good]
    assert [row.run for row in views.runs(search=bad).rows] == [bad]
    assert views.runs(status="cancelled").rows == ()
    limited = views.runs(limit=1)
    assert ([row.run for row in limited.rows], limited.total, limited.workflows) == ([bad], 2, ("breaks", "gathers"))


async def test_what_a_label_keeps_from_the_owner_leaves_through_no_view(client, runtime, board):
    """Of every kind of record one with an unreadable value; the views' JSON is searched for it."""
    kept = [(await runtime.run(name, SECRET, label=ANNS)).run for name in ("gathers", "breaks")]
    readable = (await runtime.run("gathers", "heron")).run
    paths = [
        "runs",
        "commits",
        "conflicts",
        "entries",
        "versions?topic=notes&key=one",
        *(f"commits/{seq}" for seq in range(1, board.head + 1)),
        *(path for run in kept for path in (f"runs/{run}", f"runs/{run}/graph", f"versions?topic=runs&key={run}")),
        *(f"provenance?topic=runs&key={run}&version={version}" for run in kept for version in (1, 2)),
        "provenance?topic=notes&key=one&version=1",
    ]
    for path in paths:
        answer = client.get(f"/api/v1/views/{path}")
        assert answer.status_code == 200, answer.text
        assert SECRET not in answer.text.casefold(), path
    for path in (f"runs/{kept[0]}", f"runs/{kept[0]}/graph"):
        assert '"withheld":true' in client.get(f"/api/v1/views/{path}").text
    # The same views of a run that the owner may read hold the value in each place: the search above can fail.
    own = client.get(f"/api/v1/views/runs/{readable}").json()
    (opened,) = own["rounds"]
    places = [own["input"], own["answer"], opened, *own["decisions"], *own["model_calls"], *own["tool_calls"]]
    assert sum("heron" in str(place).casefold() for place in places) >= 6
    failed = client.get(f"/api/v1/views/runs/{kept[1]}").json()
    assert failed["failure"] is None


async def test_a_search_tells_nothing_of_what_is_withheld(console, runtime):
    await runtime.run("gathers", SECRET, label=ANNS)
    views = console.views
    assert views.runs(search=SECRET).total == 0
    assert views.commits(search=SECRET) == ()
    assert views.entries(search=SECRET).entries == ()
    await runtime.run("gathers", SECRET)
    assert views.runs(search=SECRET).total == 1
    assert views.commits(search=SECRET)
    assert views.entries(search=SECRET).entries


async def test_nothing_is_at_unknown_places(console, runtime):
    await runtime.run("breaks", "x")
    for look in (
        lambda: console.views.run("none"),
        lambda: console.views.graph("none"),
        lambda: console.views.commit(999),
        lambda: console.views.provenance("notes", "none"),
        lambda: console.views.graph("none", at=999),
        lambda: console.recorded.board(),
    ):
        with pytest.raises(ServerRefused):
            look()


def test_a_recorded_board_is_read_by_the_same_routes(runtime, serve):
    with serve(runtime, recorded=RECORDED) as http, connected(http) as console:
        found = console.recorded.runs()
        assert found.total > 0
        assert console.recorded.run(found.rows[0].run).row == found.rows[0]
        assert console.views.runs().total == 0
        assert console.recorded.board().head > 0


def connected(http: httpx.Client) -> RuntimeClient:
    return RuntimeClient(str(http.base_url), http.headers["Authorization"].removeprefix("Bearer "))


PARTS = ("AnswerView", "ChangeView")
"""Views that are parts of content, which is withheld as a whole."""


def test_a_value_in_a_view_is_protected_by_a_label():
    """Every field that can hold any JSON is marked as content, unless it is part of something that is."""
    for name in every_view():
        for field, kind in name[1].items():
            if kind == Json:
                assert is_content(field.metadata) or name[0] in PARTS, (name[0], field.name)


def every_view() -> list[tuple[str, dict[dataclasses.Field[object], object]]]:
    modules = [
        importlib.import_module(f"agentsys.views.{found.name}")
        for found in pkgutil.iter_modules(agentsys.views.__path__)
    ]
    found = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and dataclasses.is_dataclass(value) and value.__module__ == module.__name__
    }
    assert len(found) > 15
    return [
        (view.__name__, {field: typing.get_type_hints(view)[field.name] for field in dataclasses.fields(view)})
        for view in found
    ]


@dataclasses.dataclass(frozen=True)
class Leaf:
    text: str = dataclasses.field(metadata=content(hidden=""))
    label: Label
    withheld: bool = False


@dataclasses.dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    name: str


def test_withholding_reaches_every_depth():
    tree = Tree((Leaf("public", Label.trusted()), Leaf(SECRET, ANNS)), "tree")
    assert withhold(tree, OWNER) == Tree((Leaf("public", Label.trusted()), Leaf("", ANNS, True)), "tree")
    assert withhold(tree, "user:ann").leaves[1].text == SECRET
    assert withhold((tree,), OWNER)[0].leaves[1].withheld


def test_what_has_no_place_for_the_mark_is_not_let_through():
    @dataclasses.dataclass(frozen=True)
    class Unmarked:
        text: str = dataclasses.field(metadata=content())
        label: Label

    with pytest.raises(TypeError):
        withhold(Unmarked(SECRET, ANNS), OWNER)


def test_a_run_that_waits_for_a_person_says_so(board, serve):
    runtime = Runtime(board, ScriptedModel(script), tools=[shout], workflows=[loud], policy=Policy.of(asks=["shout"]))
    with serve(runtime) as http, connected(http) as console:
        run = console.start("loud", "hello")
        waited = time.monotonic() + 20
        while not console.views.runs(status="waiting").rows and time.monotonic() < waited:
            time.sleep(0.05)
        (row,) = console.views.runs(status="waiting").rows
        assert (row.run, row.status, row.state, row.waiting) == (run, "running", "waiting", 1)
        assert console.views.runs(status="running").rows == (row,)
        assert console.views.run(run).row == row
        console.cancel(run)
        assert console.views.run(run).row.state == "cancelled"


async def loud(context, text):
    return (await context.call("shout", text=text)).value
