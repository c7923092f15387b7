"""P8: only registered endorsers change usability, they let their domain's members through alone, every bit counts."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from agentsys import topics
from agentsys.blackboard.board import Board
from agentsys.blackboard.entries import Json
from agentsys.blackboard.labels import BOTTOM, OWNER, PUBLIC, EndorsedInfluence, Label
from agentsys.blackboard.predicates import Predicate
from agentsys.gateway import PolicyDenied
from agentsys.policy.domains import Domain
from agentsys.policy.endorsers import Endorser, Refused, answer_form
from agentsys.policy.policy import Policy
from agentsys.policy.rules import Limits, ToolRule
from agentsys.quotas import Charge, QuotaExceeded, charges_of_call, charges_of_endorsement, spend
from tests.ifc.checking import holds, is_violated
from tests.ifc.strategies import labels
from tests.ifc.world import World, attempt

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
MEMBERS = ("Ann@example.org", "bob@example.org", 7, 2.5, "BOB@example.ORG ")
QUICK = settings(deadline=None)


def numbers(endorser: Endorser) -> list[float]:
    """Return the domain of a bounded number by counting it out."""
    assert endorser.minimum is not None and endorser.maximum is not None
    found, number = [], 0
    while endorser.minimum + number * endorser.step <= endorser.maximum + 1e-9 * endorser.step:
        found.append(endorser.minimum + number * endorser.step)
        number += 1
    return found


ranges = st.builds(
    lambda low, count, step: Endorser(type="number", minimum=low, maximum=low + count * step, step=step),
    st.sampled_from([0.0, -3.0, 0.5, 100.0]),
    st.integers(0, 40),
    st.sampled_from([1.0, 0.25, 0.1, 0.01, 7.0]),
)


@QUICK
@given(endorser=ranges, value=ANYTHING, near=st.sampled_from([0.0, 1e-9, 1e-3, 0.4]), pick=st.integers(0, 100))
def test_a_number_is_let_through_only_as_a_counted_member(
    endorser: Endorser, value: Json, near: float, pick: int
) -> None:
    domain = numbers(endorser)
    assert endorser.size(()) == len(domain)
    assert endorser.bits(()) == pytest.approx(math.log2(len(domain) + 1))
    chosen = domain[pick % len(domain)]
    assert endorser.admit(chosen, ()) == pytest.approx(chosen, abs=endorser.step / 1000)
    for candidate in (value, chosen + near * endorser.step, str(chosen), chosen - endorser.step * near):
        try:
            admitted: Any = endorser.admit(candidate, ())
        except Refused:
            continue
        assert isinstance(admitted, int | float) and not isinstance(admitted, bool)
        assert admitted in {endorser.admit(member, ()) for member in domain}, "it is not a member as it is spelt"
        assert isinstance(admitted, int) == (admitted % 1 == 0)


@pytest.mark.parametrize("value", [True, None, "ten", "", [1], {}, math.nan, math.inf, 10**400, -1, 11, 0.5, "1e400"])
def test_what_is_no_member_is_refused(value: Json) -> None:
    with pytest.raises(Refused):
        Endorser(type="number", minimum=0, maximum=10).admit(value, ())


def test_a_number_is_text_where_the_policy_wants_it_so_and_else_never() -> None:
    for as_text, wanted in ((True, "5"), (False, 5)):
        endorser = Endorser(type="number", minimum=0, maximum=10, as_text=as_text)
        assert [endorser.admit(value, ()) for value in (5, 5.0, "5", " 5.0", "0_5")] == [wanted] * 5
    assert Endorser(type="number", minimum=0, maximum=1, step=0.1).admit(0.30000000000000004, ()) == 0.3


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"type": "member"}, "needs a domain"),
        ({"type": "number", "domain": "x", "minimum": 0, "maximum": 1}, "needs a domain, and no other has one"),
        ({"type": "boolean", "domain": "x"}, "needs a domain, and no other has one"),
        ({"type": "number", "minimum": 0}, "finite minimum"),
        ({"type": "number", "maximum": 0}, "finite minimum"),
        ({"type": "number", "minimum": 1, "maximum": 0}, "finite minimum"),
        ({"type": "number", "minimum": 0, "maximum": math.inf}, "finite number"),
        ({"type": "number", "minimum": math.nan, "maximum": 1}, "finite number"),
        ({"type": "number", "minimum": 0, "maximum": 1, "step": math.inf}, "finite number"),
        ({"type": "number", "minimum": 0, "maximum": 1, "step": 0}, "greater than 0"),
        ({"type": "number", "minimum": 0, "maximum": 1, "step": 1e-300}, "cannot be counted"),
        ({"type": "number", "minimum": 0, "maximum": 2.0**53}, "cannot be counted"),
        ({"type": "number", "minimum": -1e308, "maximum": 1e308}, "cannot be counted"),
        ({"type": "date", "earliest": "2024-01-01"}, "needs earliest and latest"),
        ({"type": "date", "latest": "2024-01-01"}, "needs earliest and latest"),
        ({"type": "date", "earliest": "2024-01-02", "latest": "2024-01-01"}, "earliest is after latest"),
        ({"type": "date", "earliest": "today", "latest": "2024-01-01"}, "does not match format"),
        ({"type": "date", "earliest": "1", "latest": "2", "format": "%f"}, "only the directives"),
        ({"type": "date", "earliest": "1", "latest": "2", "format": "%"}, "only the directives"),
        ({"type": "boolean", "many": 65}, "less than or equal to 64"),
        ({"type": "boolean", "many": -1}, "greater than or equal to 0"),
        ({"type": "colour"}, "'member', 'number', 'date' or 'boolean'"),
        ({"type": "boolean", "bits": 1}, "Extra inputs"),
    ],
)
def test_an_endorser_without_bounds_is_refused(fields: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Endorser(**fields)


def test_bounds_may_meet() -> None:
    assert Endorser(type="number", minimum=1, maximum=1).size(()) == 1
    assert Endorser(type="number", minimum=0, maximum=2.0**53 - 1).size(()) == 2**53
    assert Endorser(type="date", earliest="2024-01-01", latest="2024-01-01").size(()) == 1
    assert (Endorser(type="boolean", many=64).many, Endorser(type="boolean").many) == (64, 0)


@pytest.mark.parametrize(
    ("form", "unit"),
    [
        ("%Y-%m-%d", timedelta(days=1)),
        ("%d.%m.%y", timedelta(days=1)),
        ("%Y-%m-%d %H", timedelta(hours=1)),
        ("%Y-%m-%d %H:%M", timedelta(minutes=1)),
        ("%Y-%m-%d %H:%M:%S", timedelta(seconds=1)),
    ],
)
def test_a_date_is_let_through_only_within_its_bounds_and_in_one_spelling(form: str, unit: timedelta) -> None:
    first, count = datetime(2024, 2, 27), 50
    last = first + (count - 1) * unit
    endorser = Endorser(type="date", earliest=first.strftime(form), latest=last.strftime(form), format=form)
    assert endorser.size(()) == count
    for number in range(-2, count + 2):
        text = (first + number * unit).strftime(form)
        if 0 <= number < count:
            assert endorser.admit(text, ()) == text
        else:
            with pytest.raises(Refused, match=f"it is not from {endorser.earliest} to {endorser.latest}"):
                endorser.admit(text, ())
    loose = first.strftime(form).replace("-02", "-2").replace(".02", ".2")
    assert endorser.admit(loose, ()) == first.strftime(form)


@QUICK
@given(value=ANYTHING)
def test_no_other_value_passes_for_a_date_or_a_boolean(value: Json) -> None:
    assume(not isinstance(value, bool))
    for endorser in (Endorser(type="date", earliest="2024-01-01", latest="2024-12-31"), Endorser(type="boolean")):
        with pytest.raises(Refused, match=r"no date written as|neither true nor false"):
            endorser.admit(value, ())


def test_a_boolean_says_one_bit_or_that_it_is_refused() -> None:
    endorser = Endorser(type="boolean")
    assert (endorser.admit(True, ()), endorser.admit(False, ())) == (True, False)
    assert endorser.bits(()) == math.log2(3)


@QUICK
@given(value=ANYTHING | st.sampled_from(["ANN@EXAMPLE.ORG", " bob@example.org", "7", "2.5", 7.0, "bob@example.orgx"]))
def test_a_directory_lets_its_own_spelling_through_and_nothing_else(value: Json) -> None:
    endorser = Endorser(domain="x")
    try:
        admitted = endorser.admit(value, MEMBERS)
    except Refused:
        return
    assert any(admitted is member for member in MEMBERS)


def test_directories_fold_case_and_space_where_that_is_unambiguous() -> None:
    endorser = Endorser(domain="x")
    for given_, wanted in {" ANN@example.org\n": "Ann@example.org", "7": 7, 7: 7, 2.5: 2.5, "2.5": 2.5}.items():
        assert endorser.admit(given_, MEMBERS) == wanted
    assert endorser.admit("bob@example.org", MEMBERS) == "bob@example.org", "itself, though another is like it"
    for value in ("Bob@example.org", "eve@example.org", True, None, ["Ann@example.org"], 1):
        with pytest.raises(Refused, match="the directory does not list it"):
            endorser.admit(value, (*MEMBERS, 1) if value is True else MEMBERS)


@pytest.mark.parametrize("many", [1, 3])
def test_lists_are_bounded_and_each_of_their_members_is_one(many: int) -> None:
    endorser = Endorser(domain="x", many=many)
    assert endorser.bits(MEMBERS) == pytest.approx(1 + many * math.log2(len(MEMBERS) + 1))
    lists = sum(len(MEMBERS) ** length for length in range(many + 1))
    assert endorser.bits(MEMBERS) >= math.log2(lists + 1)
    assert endorser.admit(["ann@example.org"] * many, MEMBERS) == ["Ann@example.org"] * many
    assert endorser.admit([], MEMBERS) == []
    for value in ("Ann@example.org", ["Ann@example.org"] * (many + 1), {"0": "x"}, None):
        with pytest.raises(Refused, match=f"it is no list of at most {many}"):
            endorser.admit(value, MEMBERS)
    with pytest.raises(Refused):
        endorser.admit(["eve"], MEMBERS)


@pytest.mark.parametrize(
    ("endorser", "members", "good", "bad"),
    [
        (Endorser(domain="x"), ("a", 2.5, 3), ["a", 3, None], ["b", 2.5, True]),
        (Endorser(domain="x"), (), [None], ["a"]),
        (Endorser(domain="x"), (2.5,), [None], [2.5]),
        (Endorser(domain="x", many=2), ("a",), [["a", "a"], [], None], [["a"] * 3, "a", [None]]),
        (Endorser(type="number", minimum=1, maximum=3), (), [1, 3, None], [0, 4, "x"]),
        (Endorser(type="date", earliest="2024-01-01", latest="2024-01-02"), (), ["x" * 40, None], ["x" * 41, 1]),
        (Endorser(type="boolean"), (), [True, None], ["x", []]),
    ],
)
def test_the_form_of_an_answer_admits_members_and_null(
    endorser: Endorser, members: tuple[Any, ...], good: list[Any], bad: list[Any]
) -> None:
    form = answer_form(endorser, members)
    assert form.__name__ == "Choice"
    for value in good:
        assert form.model_validate_json(json.dumps({"value": value})).value == value  # type: ignore[attr-defined]
    for value in bad:
        with pytest.raises(ValueError, match="validation error"):
            form.model_validate_json(json.dumps({"value": value}))
    with pytest.raises(ValueError, match="Field required"):
        form.model_validate_json("{}")


def test_a_directory_is_given_or_found_and_never_both() -> None:
    assert Domain(values=("a", "b", "a", 1)).members(None) == ("a", "b", 1)
    listing = {"x": {"email": "a"}, "y": {"email": "b"}, "z": {"email": "a"}, "w": {"email": None}, "v": 1}
    assert Domain(tool="t", path="*.email").members(listing) == ("a", "b")
    assert Domain(tool="t").members(["a", 2, 2.5, None, ["c"], {"d": 1}]) == ("a", 2, 2.5)
    assert Domain(tool="t").path == "*"
    for fields in ({}, {"values": ("a",), "tool": "t"}):
        with pytest.raises(ValueError, match="give either values or tool"):
            Domain(**fields)  # type: ignore[arg-type]


@QUICK
@given(label=labels, by=st.sampled_from(["contact", "x"]), bits=st.sampled_from([0.0, 2.0, 99.0]))
def test_an_endorsement_adds_a_fact_and_erases_nobody(label: Label, by: str, bits: float) -> None:
    endorsed = label.endorsed(by, bits, keeping=[OWNER, "web"])
    assert endorsed.shaped_by == label.shaped_by
    assert endorsed.influencers == label.influencers & {OWNER, "web"}
    gone = label.influencers - {OWNER, "web"}
    assert endorsed.endorsements == label.endorsements | {EndorsedInfluence(by, influencer) for influencer in gone}
    assert (endorsed.readers, endorsed.capacity) == (label.readers, min(bits, label.capacity))
    assert not endorsed.influenced_only_by([OWNER, "web"], []) or not endorsed.endorsements
    assert label.endorsed(by, bits).influencers == frozenset()


@QUICK
@given(label=labels, by=st.frozensets(st.sampled_from(["contact", "amount", "person"])))
def test_who_is_not_trusted_needs_an_endorser_that_is_accepted(label: Label, by: frozenset[str]) -> None:
    through = {fact.endorser for fact in label.endorsements}
    trusted = label.influencers <= {OWNER}
    assert label.influenced_only_by([OWNER], by) == (trusted and through <= by)
    assert label.influenced_only_by([OWNER]) == (trusted and not through)


def test_all_of_a_limit_can_be_spent_in_parts_that_no_float_is_exactly() -> None:
    charge = Charge("r/cost", 0.1, 0.3, "the cost of the run")
    with Board.open(":memory:") as board:
        for _ in range(3):
            transaction = board.begin("runtime")
            spend(transaction, [charge])
            board.commit(transaction)
        with pytest.raises(QuotaExceeded, match=r"would come to 0\.4, and 0\.3 is the limit"):
            spend(board.begin("runtime"), [charge])


@QUICK
@given(label=labels, bits=st.sampled_from([1.5, 3.0]))
def test_everybody_untrusted_who_shaped_an_endorsed_value_is_charged(label: Label, bits: float) -> None:
    policy = Policy(trusted=frozenset({OWNER, "user:ann"}), budget_bits=20)
    charges = charges_of_endorsement(policy, "r", label, bits)
    names = sorted(label.shaped_by - {OWNER, "user:ann"})
    assert charges == [
        Charge(f"r/bits/{name}", bits, 20, f"bits that {name} says through endorsed values") for name in names
    ]


def test_calls_are_charged_to_what_limits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {
        "a": ToolRule(limits=Limits(run=2, hour=5), cost=1.5),
        "b": ToolRule(cost=1.5),
        "c": ToolRule(limits=Limits(run=0)),
        "d": ToolRule(limits=Limits(hour=0)),
    }
    monkeypatch.setattr("time.time", lambda: 7200.5)
    policy = Policy(tools=rules, run_cost=4)
    a = [
        Charge("r/calls/a", 1, 2, "calls of a in the run"),
        Charge("hour/2/a", 1, 5, "calls of a in this hour"),
        Charge("r/cost", 1.5, 4, "the cost of the run"),
    ]
    assert charges_of_call(policy, "r", "a") == a
    assert charges_of_call(policy, "r", "b") == a[2:]
    assert [charge.limit for charge in charges_of_call(policy, "r", "c")] == [0]
    assert [charge.limit for charge in charges_of_call(policy, "r", "d")] == [0]
    assert charges_of_call(Policy(tools=rules), "r", "b") == charges_of_call(policy, "r", "z") == []
    for fields in ({"run": -1}, {"hour": -1}):
        with pytest.raises(ValueError, match="greater than or equal to 0"):
            Limits(**fields)
    for fields in ({"budget_bits": -1}, {"run_cost": -1}, {"budget_bits": math.inf}):
        with pytest.raises(ValueError, match=r"greater than or equal to 0|finite number"):
            Policy(**fields)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        ToolRule(cost=-1)


def test_what_is_spent_is_exact_and_stops_at_the_limit(board: Board) -> None:
    for spent in (1.5, 3.0):
        transaction = board.begin("x")
        spend(transaction, [Charge("k", 1.5, 3.0, "bits of k")])
        board.commit(transaction)
        entry = board.get(topics.QUOTAS, "k")
        assert entry is not None
        assert (entry.value, entry.type, entry.label, entry.derived_from) == ({"spent": spent}, "quota", BOTTOM, ())
    with pytest.raises(QuotaExceeded, match=r"bits of k would come to 4\.5, and 3 is the limit\."):
        spend(board.begin("x"), [Charge("k", 1.5, 3.0, "bits of k")])


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["endorse", "choose"]),
        st.sampled_from(["contact", "amount", "channel"]),
        st.integers(0, 1),
        st.sampled_from(["sender", "body", "id"]),
    ),
    max_size=6,
)


def accounts(board: Board, policy: Policy, run: str) -> tuple[dict[str, float], dict[str, float]]:
    """Return the bits of each influencer as the quotas say it, and as the recorded endorsements add up to."""
    said: dict[str, float] = {}
    for entry in board.query(Predicate(topic=topics.QUOTAS)):
        name = entry.key.removeprefix(f"{run}/bits/")
        if name != entry.key:
            said[name] = TypeAdapter(dict[str, float]).validate_python(entry.value)["spent"]
    added: dict[str, float] = {}
    for entry in board.query(Predicate(topic=topics.steps(run))):
        body: Any = entry.value
        if body["kind"] == "endorse":
            for name in entry.label.shaped_by - policy.trusted:
                added[name] = added.get(name, 0.0) + body["value"]["bits"]
    return said, added


def accounts_are_exact(steps: list[Any], tainted: bool) -> None:
    async def body(context: Any) -> None:
        if tainted:
            context.deliver(Label(frozenset({"web"}), PUBLIC))
        mail = await context.call_hidden("read_mail")
        for action, endorser, number, part in steps:
            try:
                await getattr(context, action)(mail[number][part], endorser)
            except PolicyDenied as denied:
                assert tainted or "bits that" in denied.message

    world = World()
    with Board.open(":memory:") as board:
        result = attempt(board, world, body)
        assert result.status == "done", result.failure
        said, added = accounts(board, world.policy, result.run)
    assert said == pytest.approx(added)
    assert all(spent <= world.policy.budget_bits for spent in said.values())
    assert ("web" in said) == (tainted and any(by != "channel" for _, by, _, _ in steps))


def test_the_quotas_are_the_sum_of_the_recorded_endorsements() -> None:
    holds(accounts_are_exact, examples=25, steps=STEPS, tainted=st.booleans())


def test_a_charge_that_is_forgotten_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentsys.model_asking.charges_of_endorsement", lambda *_: [])
    is_violated(accounts_are_exact, steps=STEPS, tainted=st.booleans())


@pytest.mark.parametrize("name", ["nobody", "Contact", ""])
def test_an_endorser_that_is_not_registered_changes_nothing(board: Board, name: str) -> None:
    async def body(context: Any) -> None:
        mail = await context.call_hidden("read_mail")
        for action in (context.endorse, context.choose):
            with pytest.raises(PolicyDenied, match="by rule unknown-endorser: the policy declares none of that name"):
                await action(mail[0]["sender"], name)

    result = attempt(board, World(), body)
    assert result.status == "done", result.failure
    assert accounts(board, World().policy, result.run) == ({}, {})


async def _no_leak(context: Any) -> list[Any]:
    mail = await context.call_hidden("read_mail")
    words = []
    for part in (mail[0]["body"], mail[9], mail[0]["sender"]["x"], mail[1]["sender"]):
        refused = await context.endorse(part, "contact")
        try:
            await context.reveal(refused)
        except Exception as error:
            words.append(str(error).partition("stands for nothing")[2])
    return words


def test_every_refusal_is_in_the_same_words(board: Board) -> None:
    result = attempt(board, World(), _no_leak)
    assert len(set(result.value)) == 1 and len(result.value) == 4
