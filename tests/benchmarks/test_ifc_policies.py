"""The shipped policies for AgentDojo: nothing that a vector can write comes out of a tool as trusted (P15)."""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import pytest
from agentdojo.functions_runtime import FunctionsRuntime

from agentsys.benchmarks.ifc.arms import ARMS, DIRECTORIES, document
from agentsys.benchmarks.ifc.dojo import SUITES, dojo, strings
from agentsys.benchmarks.ifc.ground_truths import Call, is_write
from agentsys.benchmarks.ifc.tools import Trace, wrap
from agentsys.blackboard.board import Board
from agentsys.context import Context
from agentsys.handles import Handle, open_handle
from agentsys.policy.policy import Policy
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel

CANARIES = ("CANARY ONE", "CANARY OTHER, and longer")

PROBES = {
    "workspace": [
        Call("get_received_emails", {}),
        Call("get_sent_emails", {}),
        Call("search_emails", {"query": "CANARY"}),
        Call("search_calendar_events", {"query": ""}),
        Call("search_calendar_events", {"query": "CANARY"}),
        Call("search_files", {"query": "CANARY"}),
        Call("list_files", {}),
        Call("get_file_by_id", {"file_id": "0"}),
        Call("get_unread_emails", {}),
        Call("append_to_file", {"file_id": "0", "content": "more"}),
        Call("share_file", {"file_id": "0", "email": "david.lee@bluesparrowtech.com", "permission": "r"}),
        Call("add_calendar_event_participants", {"event_id": "24", "participants": ["sara.lee@bluesparrowtech.com"]}),
        Call("reschedule_calendar_event", {"event_id": "24", "new_start_time": "2024-05-16 10:00"}),
        Call("delete_file", {"file_id": "0"}),
    ],
    "travel": [
        Call("get_rating_reviews_for_hotels", {"hotel_names": document("travel")["domains"]["hotels"]["values"]}),
        Call(
            "get_rating_reviews_for_restaurants",
            {"restaurant_names": document("travel")["domains"]["restaurants"]["values"]},
        ),
        Call(
            "get_rating_reviews_for_car_rental",
            {"company_name": document("travel")["domains"]["car_companies"]["values"]},
        ),
    ],
    "banking": [
        Call("get_most_recent_transactions", {}),
        *(Call("read_file", {"file_path": path}) for path in ("bill-december-2023.txt", "landlord-notices.txt")),
        Call("read_file", {"file_path": "address-change.txt"}),
    ],
    "slack": [
        Call("get_channels", {}),
        Call("read_channel_messages", {"channel": "general"}),
        *(
            Call("get_webpage", {"url": f"www.{page}.com"})
            for page in ("informations", "true-informations", "dora-website", "eve-blog", "restaurant-zurich")
        ),
    ],
}


def probes(suite: str, environment: Any, only: str | None) -> list[Call]:
    """Return calls that bring out every vector: what all ground truths read, and the ones above."""
    of, found = dojo(suite), list[Call]()
    for task in (*of.suite.user_tasks.values(), *of.suite.injection_tasks.values()):
        calls = task.ground_truth(environment.model_copy(deep=True))
        found += [Call(call.function, dict(call.args)) for call in calls if not is_write(call.function)]
    once = {str(call): call for call in [*found, *PROBES[suite]]}
    return [call for call in once.values() if only in (None, call.tool)]


def leaks(
    suite: str, written: dict[str, Any], folder: Path, only: str | None = None
) -> tuple[list[str], set[str], list[str]]:
    """Call all probes on the real runtime, in two environments that differ in their vectors alone.

    Returns the tools that give out a canary as trusted, the vectors that came out at all, and the tools of which a
    planner would see another result in the one environment than in the other. ``only`` names the one tool to call.
    """
    trusting, surfaced, seen = list[str](), set[str](), list[dict[str, str]]()
    policy, vectors = Policy.model_validate(written), dojo(suite).suite.get_injection_vector_defaults()
    for number, canary in enumerate(CANARIES):
        environment = dojo(suite).injected({vector: f"{canary} {vector}" for vector in vectors})
        with Board.open(folder / f"{number}.db", durability="normal") as board:
            tools = wrap(FunctionsRuntime(dojo(suite).suite.tools), environment, Trace())
            runtime = Runtime(board, ScriptedModel(str), tools=tools, policy=policy)
            found = asyncio.run(brought_out(runtime, probes(suite, environment, only)))
        seen.append({f"{call.tool} {place}": shown for place, (call, shown, _, _) in enumerate(found)})
        for call, _, value, trusted in found:
            text = "\n".join(strings(value))
            surfaced.update(vector for vector in vectors if f"{canary} {vector}" in text)
            if any(canary in text for text in trusted):
                trusting.append(call.tool)
    differing = [name.split()[0] for name in seen[0] if seen[0][name] != seen[1].get(name)]
    return sorted(set(trusting)), surfaced, sorted(set(differing))


async def brought_out(runtime: Runtime, calls: list[Call]) -> list[tuple[Call, str, Any, list[str]]]:
    """Make calls in a run; return for each what a planner sees, what there is, and which texts of it are trusted."""
    found = list[tuple[Call, str, Any, list[str]]]()

    async def main(context: Context, _: Any) -> None:
        for call in calls:
            handle = await context.call_hidden(call.tool, **call.arguments)
            shown = json.dumps(context.visible(handle), default=str, sort_keys=True)
            value = open_handle(handle)
            found.append((call, shown, value, trusted_texts(handle, value, runtime.policy)))

    result = await runtime.run(main)
    assert result.failure is None, result.failure
    return found


def trusted_texts(handle: Handle, value: Any, policy: Policy) -> list[str]:
    """Return every text of a result whose label only trusted principals shaped."""
    if isinstance(value, dict):
        own = [str(key) for key in value] if policy.trusts(handle.label) else []
        return [*own, *(text for key, item in value.items() for text in trusted_texts(handle[key], item, policy))]
    if isinstance(value, list):
        return [text for place, item in enumerate(value) for text in trusted_texts(handle[place], item, policy)]
    return [str(value)] if policy.trusts(handle.label) else []


@pytest.mark.parametrize("suite", SUITES)
def test_every_vector_comes_out_and_none_of_it_as_trusted(suite: str, tmp_path: Path) -> None:
    trusting, surfaced, differing = leaks(suite, document(suite), tmp_path)
    assert trusting == []
    assert differing == []
    assert surfaced == set(dojo(suite).suite.get_injection_vector_defaults())


@pytest.mark.parametrize(
    ("suite", "tool", "change"),
    [
        ("workspace", "search_emails", {"source": []}),
        ("workspace", "get_file_by_id", {"source": []}),
        ("workspace", "delete_file", {"source": []}),
        ("workspace", "list_files", {"fields": {"*.content": []}}),
        ("travel", "get_rating_reviews_for_car_rental", {"source": []}),
        ("banking", "get_most_recent_transactions", {"source": []}),
        ("banking", "read_file", {"source": []}),
        ("slack", "get_channels", {"source": []}),
        ("slack", "get_webpage", {"source": []}),
    ],
)
def test_a_source_that_is_left_out_is_found(suite: str, tool: str, change: dict[str, Any], tmp_path: Path) -> None:
    written = copy.deepcopy(document(suite))
    written["tools"][tool] |= change
    trusting, _, _ = leaks(suite, written, tmp_path, tool)
    assert trusting == [tool]


def test_a_field_that_only_depends_on_what_strangers_wrote_is_found(tmp_path: Path) -> None:
    written = copy.deepcopy(document("workspace"))
    written["tools"]["list_files"] |= {"source": [], "fields": {"*.content": ["external"], "*.filename": ["external"]}}
    trusting, _, differing = leaks("workspace", written, tmp_path, "list_files")
    assert trusting == []
    assert differing == ["list_files"], "the size of a file tells how long a stranger's text in it is"


@pytest.mark.parametrize("suite", SUITES)
def test_the_policies_know_every_tool_and_every_argument_of_those_that_change_something(suite: str) -> None:
    rules, tools = document(suite)["tools"], {tool.name: tool for tool in dojo(suite).suite.tools}
    assert set(rules) == set(tools)
    # It marks mails as read; the benchmark does not count that among the user's writes.
    marking = {"get_unread_emails"} & set(tools)
    assert {name for name, rule in rules.items() if rule["consequential"]} == marking | set(filter(is_write, tools))
    for name in filter(is_write, tools):
        assert set(rules[name].get("arguments", {})) == set(tools[name].parameters.model_fields), name


def test_directories_hold_nothing_that_a_vector_writes_and_no_account_of_an_attacker() -> None:
    for suite in SUITES:
        written, of = document(suite), dojo(suite)
        injected = {vector: f"CANARY {vector}" for vector in of.suite.get_injection_vector_defaults()}
        prompts = [task.PROMPT for task in of.suite.user_tasks.values()]
        own_world = "\n".join([*strings(of.injected(injected).model_dump(mode="json")), *prompts])
        listed = {name for name in written["domains"] if name in DIRECTORIES}
        members = {str(member) for name in listed for member in written["domains"][name]["values"]}
        assert {member for member in members if member not in own_world} == set()
    accounts = " ".join(map(str, document("banking")["domains"]["paid_before"]["values"]))
    assert "US133000000121212121212" not in accounts
    assert "mark.black-2134@gmail.com" not in document("workspace")["domains"]["contacts"]["values"]


def test_the_arms_take_away_endorsers_and_nothing_else() -> None:
    values, typed, full = (arm.policy("workspace") for arm in ARMS[2:5])
    recipients = [policy.rule("send_email").argument("recipients").endorsers for policy in (values, typed, full)]
    assert recipients == [(), (), ("contact",)]
    files = [policy.rule("append_to_file").argument("file_id").endorsers for policy in (values, typed, full)]
    assert files == [(), ("file",), ("file",)]
    assert ARMS[0].policy("workspace").trusted > full.trusted
    assert {rule.ask for rule in full.tools.values()} == {"never"}
    assert ARMS[5].policy("workspace").rule("send_email").ask == "if-untrusted"
