"""Provenance in words and as a graph."""

from __future__ import annotations

from agentsys.blackboard.labels import Label
from agentsys.ui.lineage import essential, lineage_dot, origin_text
from agentsys.views.provenance import LabelOrigin, Provenance, ProvenanceEdge, ProvenanceNode


def node(name: str, side: str = "upstream", topic: str = "notes") -> ProvenanceNode:
    return ProvenanceNode(
        id=name, topic=topic, key=name, kind="note", title=name, side=side, steps=1, seq=1, writer="agent:x",
        value=None, label=Label(), gained=(), narrowed=False, lowered=False, endorsement=None,
    )  # fmt: skip


def test_an_origin_is_told_with_its_way():
    nodes = (node("a", "value"), node("b"), node("c"))
    found = Provenance("a", nodes, (), (), (), cut=False)
    assert origin_text(found, LabelOrigin("file:x", ("c", "b", "a"))) == (
        "file:x: came in with note c, then note b → note a"
    )
    assert "with the value itself, note a" in origin_text(found, LabelOrigin("file:x", ("a",)))
    assert "farther away" in origin_text(found, LabelOrigin("file:x", ()))


def test_the_essential_are_the_ways_and_what_came_next():
    nodes = (node("a", "value"), node("b"), node("c"), node("d"), node("e", "downstream"))
    found = Provenance("a", nodes, (), (LabelOrigin("file:x", ("c", "b", "a")),), (), cut=False)
    assert [kept.id for kept in essential(found).nodes] == ["a", "b", "c", "e"]


def test_the_value_stands_out_and_entries_open_on_a_click():
    nodes = (node("a", "value"), node("b", topic=""))
    lines = lineage_dot(
        Provenance("a", nodes, (ProvenanceEdge("b", "a", "read"),), (), (), cut=False), "r"
    ).splitlines()
    (value,) = [line for line in lines if "penwidth=3" in line]
    assert 'URL="?run=r&view=Provenance&topic=notes&key=a"' in value
    assert sum("URL=" in line for line in lines) == 1
    assert any(line.endswith('-> n0 [label="read"];') for line in lines)
