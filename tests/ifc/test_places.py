"""Places inside values: each has one path, what is said of it holds for all that is inside, and nothing else does."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsys.blackboard.entries import EntryVersionRef, Json
from agentsys.blackboard.labels import BOTTOM, PUBLIC, Label
from agentsys.handles import (
    Handle,
    HandleOpaque,
    Hidden,
    NoValue,
    open_handle,
    patterns,
    shown,
    together,
)
from agentsys.labelled import Given, Labelled, sources_of
from agentsys.paths import at, covers, everywhere, pattern_of, reaches_into

QUICK = settings(deadline=None)
keys = st.sampled_from(["a", "b", "0", "1"])
values = st.recursive(
    st.integers(0, 3) | st.sampled_from(["x", "0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=10,
)
some_patterns = st.lists(st.sampled_from(["*", "a", "b", "0", "1"]), max_size=3).map(".".join)


def places(value: Json, path: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], Json]:
    """Return all places inside a value, each by its one path."""
    found = {path: value}
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        found |= places(item, (*path, key))
    return found


@QUICK
@given(value=values)
def test_every_place_is_found_at_its_path_and_no_other_path_leads_anywhere(value: Json) -> None:
    there = places(value)
    for path, item in there.items():
        assert at(value, path) == item
        assert at(value, tuple(map(str, path))) == item
    known = {tuple(map(str, path)) for path in there}
    odd: list[Any] = ["-1", -1, "00", "+0", " 0", "0_0", True, "a", "1", 1, 9, "٠"]
    for path in there:
        for key in odd:
            if (*map(str, path), str(key)) not in known:
                with pytest.raises(LookupError, match="nothing is at"):
                    at(value, (*path, key))


def test_where_nothing_is_is_said() -> None:
    with pytest.raises(LookupError, match=r"^nothing is at a\.2$"):
        at({"a": [1, 2]}, ("a", 2, "b"))
    with pytest.raises(LookupError, match=r"^nothing is at a$"):
        at("text", ("a",))


@QUICK
@given(value=values, pattern=some_patterns)
def test_a_pattern_describes_places_and_all_inside_them(value: Json, pattern: str) -> None:
    described = pattern_of(pattern)
    there = places(value)

    def agrees(path: tuple[str | int, ...]) -> bool:
        return all(part in ("*", str(key)) for part, key in zip(described, path, strict=False))

    for path in there:
        assert covers(described, path) == (len(described) <= len(path) and agrees(path))
        assert reaches_into(described, path) == (len(described) > len(path) and agrees(path))
    wanted = [item for path, item in there.items() if len(path) == len(described) and covers(described, path)]
    found = everywhere(value, pattern)
    assert sorted(map(repr, found)) == sorted(map(repr, wanted))


def test_the_whole_is_the_empty_pattern() -> None:
    assert (pattern_of(""), pattern_of("a.*.b")) == ((), ("a", "*", "b"))
    assert everywhere([1], "") == [[1]]
    assert everywhere({"a": {"x": 1}, "b": {"x": 2}, "c": 3}, "*.x") == [1, 2]
    assert patterns({"": BOTTOM, "*.x": Label()}) == {(): BOTTOM, ("*", "x"): Label()}


LABELS = {name: Label(frozenset({name}), PUBLIC, 1.0) for name in ("whole", "any", "one", "deep", "other")}
HIDDEN = Hidden(
    [{"x": {"y": 1}, "z": 2}, {"x": {"y": 3}, "z": 4}],
    LABELS["whole"],
    patterns({"*.x": LABELS["any"], "1.x": LABELS["one"], "*.x.y": LABELS["deep"], "*.w": LABELS["other"]}),
)


@pytest.mark.parametrize(
    ("path", "own", "everything"),
    [
        ((), ["whole"], ["whole", "any", "one", "deep", "other"]),
        ((0,), ["whole"], ["whole", "any", "deep", "other"]),
        ((1,), ["whole"], ["whole", "any", "one", "deep", "other"]),
        ((0, "z"), ["whole"], ["whole"]),
        ((0, "x"), ["any"], ["any", "deep"]),
        ((1, "x"), ["any", "one"], ["any", "one", "deep"]),
        ((0, "x", "y"), ["deep"], ["deep"]),
        ((0, "x", "q"), ["any"], ["any"]),
        ((0, "w"), ["other"], ["other"]),
    ],
)
def test_a_part_has_the_label_of_the_nearest_that_is_said_of_it(
    path: tuple[str | int, ...], own: list[str], everything: list[str]
) -> None:
    assert HIDDEN.own_label(path).influencers == set(own)
    assert HIDDEN.label_at(path).influencers == set(everything)
    handle = Handle("$1", HIDDEN)
    for key in path:
        handle = handle[key]
    assert handle.label == HIDDEN.label_at(path)
    assert (handle.path, handle.name) == (path, "$1")


def test_a_handle_stands_for_its_value_or_says_for_what_it_does_not() -> None:
    handle = Handle("$1", HIDDEN)
    assert open_handle(handle[1]["x"]["y"]) == 3
    with pytest.raises(NoValue, match=r"\$1\[0\]\['q'\] stands for nothing: nothing is at 0\.q\.") as caught:
        open_handle(handle[0]["q"])
    assert caught.value.label == HIDDEN.label_at(())
    failed = Handle("$2", Hidden(None, LABELS["whole"], HIDDEN.fields, failure="no route"))
    with pytest.raises(NoValue, match=r"\$2\['x'\] stands for nothing: no route\.") as caught:
        open_handle(failed["x"])
    assert caught.value.label == HIDDEN.label_at(())


def test_what_flows_to_the_observer_is_shown_and_nothing_else() -> None:
    handle = Handle("$1", HIDDEN)
    below = LABELS["whole"].join(LABELS["any"])
    seen = shown(handle, below)
    assert (seen[0]["z"], seen[1]["z"]) == (2, 4)
    assert isinstance(seen[0]["x"]["y"], Handle) and str(seen[0]["x"]["y"]) == "$1[0]['x']['y']"
    assert isinstance(seen[1]["x"], Handle), "two things are said of it, and one of them is not below"
    assert shown(handle, BOTTOM) is handle
    everything = HIDDEN.label_at(())
    assert shown(handle, everything) == HIDDEN.value
    failed = Handle("$2", Hidden(None, LABELS["whole"], failure="no route"))
    assert shown(failed, BOTTOM) is failed
    with pytest.raises(NoValue):
        shown(failed, LABELS["whole"])
    assert shown(Handle("$3", Hidden("text", BOTTOM)), BOTTOM) == "text"


def test_a_list_of_handles_keeps_the_label_of_each() -> None:
    one, two = Handle("$1", Hidden(1, LABELS["one"])), Handle("$2", Hidden(2, LABELS["any"]))
    listed = together("$3", [one, two])
    assert (open_handle(listed), listed.name) == ([1, 2], "$3")
    assert [listed[0].label, listed[1].label] == [LABELS["one"], LABELS["any"]]
    assert listed.label == BOTTOM.join(LABELS["one"], LABELS["any"])
    failed = together("$4", [one, Handle("$2", Hidden(None, LABELS["deep"], failure="gone"))])
    assert failed.label == LABELS["one"].join(LABELS["deep"])
    with pytest.raises(NoValue, match=r"\$4 stands for nothing: .*gone"):
        open_handle(failed)


def test_a_copy_of_a_handle_is_the_handle() -> None:
    handle = Handle("$1", HIDDEN)[0]["x"]
    assert copy.copy(handle) is handle
    assert copy.deepcopy({"a": [handle]})["a"][0] is handle
    with pytest.raises(HandleOpaque):
        pickle.dumps(handle)


def test_the_whole_of_a_value_can_have_a_label_of_its_own() -> None:
    whole = Hidden({"a": 1}, LABELS["other"], patterns({"": LABELS["whole"], "a": LABELS["one"]}))
    assert whole.own_label(()) == LABELS["whole"]
    assert whole.own_label(("b",)) == LABELS["whole"]
    assert whole.own_label(("a",)) == LABELS["one"]


def test_the_entries_behind_handles_are_known() -> None:
    ref = EntryVersionRef("t", "k", 1)
    handle = Handle("$1", Hidden(1, BOTTOM, sources=(ref,)))
    assert sources_of({"a": [handle, (handle["x"],)], "b": 2}) == [ref, ref]
    assert sources_of([Labelled(handle, BOTTOM), Given({"a": handle}, {})]) == [ref, ref]
    assert sources_of(Handle("$2", HIDDEN)) == []


def test_nothing_can_be_learned_of_a_handle() -> None:
    handle = Handle("$1", HIDDEN)[0]["x"]
    looks: list[Any] = [bool, len, list, int, float, lambda h: h == 1, lambda h: h != 1, lambda h: 1 in h]
    looks += [lambda h: h < 1, lambda h: h > 1]
    for look in looks:
        with pytest.raises(HandleOpaque, match=r"\$1\[0\]\['x'\] is hidden: its value, size and truth"):
            look(handle)
    assert (str(handle), repr(handle)) == ("$1[0]['x']", "<Handle $1[0]['x']>")
    assert len({handle, Handle("$1", HIDDEN)}) == 2
