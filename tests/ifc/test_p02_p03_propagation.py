"""P2 and P3: labels only rise, and the control label is the join of everything that an actor and its model received."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import strategies as st

from agentsys.blackboard.labels import PUBLIC, Label, join_all
from agentsys.policy.documents import read_policy
from agentsys.recording import Recording
from agentsys.testing import prompt_text
from agentsys.tool_calling import ToolCalling
from tests.ifc.checking import holds, is_violated
from tests.ifc.programs import Step, contents, perform, programs
from tests.ifc.world import DIARY, MAIL, POLICY, WEB

CANARIES = {"canary-mail": MAIL, "canary-web": WEB, "canary-diary": DIARY, "canary-failure": WEB}
MARKED = {
    "mail": [{"id": n, "sender": "canary-mail", "body": "canary-mail"} for n in (1, 2)],
    "diary": "canary-diary",
}
PAGES = st.sampled_from([["canary-web"], None])


def learnt(text: str) -> Label:
    """Return the join of the labels of all sources that a text holds something of."""
    text = text.replace("the page wants you to pay eve", "canary-failure")
    return join_all([Label.trusted(), *(label for canary, label in CANARIES.items() if canary in text)])


def rising(program: Sequence[Step], world: dict[str, Any]) -> None:
    """The steps of a program check themselves that no label sinks: see :class:`tests.ifc.programs.Doer`."""
    outcome = perform(program, **world)
    assert Label.trusted().flows_to(Label.from_json(outcome.result.value))


RAISED = read_policy(POLICY.replace("source = []", 'source = ["ghost"]'))


def monotone(program: Sequence[Step]) -> None:
    """Where every source is said to be shaped by one more, nothing that is shown comes out lower."""
    low, high = perform(program), perform(program, policy=RAISED)
    for below, above in zip(low.shown, high.shown, strict=True):
        assert below.flows_to(above)
    assert Label.from_json(low.result.value).flows_to(Label.from_json(high.result.value))


def received(program: Sequence[Step], pages: list[str] | None) -> None:
    """Every prompt is labelled with all that it holds; the actor's label with all that it was shown."""
    outcome = perform(program, pages=pages, **MARKED)
    for request in outcome.world.model.requests:
        assert learnt(prompt_text(request)).flows_to(request.label), "a prompt holds more than its label says"
    label = Label.from_json(outcome.result.value)
    assert learnt("\n".join(outcome.seen)).flows_to(label), "the actor was shown more than its label says"


EXACT = st.lists(
    st.sampled_from(
        [["hide", "read_mail"], ["open", "read_diary"], ["open", "browse"], ["think"], ["open", "read_mail"]]
    ),
    min_size=1,
    max_size=5,
)


def exactly(program: Sequence[Step]) -> None:
    outcome = perform(program, pages=["canary-web"], **MARKED)
    assert Label.from_json(outcome.result.value) == learnt("\n".join(outcome.seen))


def test_no_step_lowers_a_label() -> None:
    holds(rising, examples=40, program=programs, world=contents())


def test_more_influence_at_a_source_lowers_nothing() -> None:
    holds(monotone, examples=15, program=EXACT)


def test_prompts_and_actors_are_labelled_with_all_that_they_received() -> None:
    holds(received, examples=50, program=programs, pages=PAGES)


def test_and_with_no_more_than_that() -> None:
    holds(exactly, examples=25, program=EXACT)


def test_a_delivery_without_its_label_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Recording, "deliver", lambda self, *labels: None)
    is_violated(exactly, program=EXACT)


def test_a_result_without_the_labels_of_the_arguments_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = ToolCalling._handle

    def lowered(self: ToolCalling, hidden: Any) -> Any:
        handle = right(self, hidden)
        object.__setattr__(hidden, "label", Label(frozenset(), PUBLIC, 0.0))
        return handle

    monkeypatch.setattr(ToolCalling, "_handle", lowered)
    is_violated(rising, program=programs, world=contents())
