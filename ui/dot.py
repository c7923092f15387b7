"""Graphs in Graphviz's language. Every text is quoted: what agents wrote can add no node, link or attribute."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlencode

from agentsys.views.texts import shorten

LONGEST_TITLE: Final = 40


@dataclass(frozen=True, slots=True)
class Box:
    """A record. ``confidential``: not everyone may read it; ``trusted``: people alone shaped it.

    ``link`` is what a click opens, as parameters of the page's own URL; ``chosen`` makes it stand out.
    """

    id: str
    kind: str
    title: str
    confidential: bool
    trusted: bool
    link: tuple[tuple[str, str], ...] = ()
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class Arrow:
    """``source`` led to ``target``; ``text`` says how."""

    source: str
    target: str
    text: str = ""


def dot_source(boxes: Iterable[Box], arrows: Iterable[Arrow]) -> str:
    """Return the graph, left to right; arrows from or to a box that is not there are left out."""
    drawn = list(boxes)
    names = {box.id: f"n{number}" for number, box in enumerate(drawn)}
    lines = ["digraph {", "rankdir=LR; bgcolor=transparent;", 'node [shape=box fontname="sans-serif" fontsize=11];']
    # A grey that both themes show: the chart is drawn over the page's own background.
    lines.append('edge [color="#888888" fontcolor="#888888" fontname="sans-serif" fontsize=9];')
    lines += [f"{names[box.id]} [{_attributes(box)}];" for box in drawn]
    lines += [
        f"{names[arrow.source]} -> {names[arrow.target]} [label={_quoted(arrow.text)}];"
        for arrow in arrows
        if arrow.source in names and arrow.target in names
    ]
    return "\n".join([*lines, "}"])


def _attributes(box: Box) -> str:
    readers = "restricted" if box.confidential else "public"
    trust = "trusted" if box.trusted else "untrusted"
    text = "\n".join((box.kind, shorten(box.title, LONGEST_TITLE), f"{readers}, {trust}"))
    fill = "#d9c8f5" if box.confidential else "#f2f2f2"
    style = "filled" if box.trusted else "filled,dashed"
    look = f'style="{style}" fillcolor="{fill}" color="#b35900" fontcolor="#111111" penwidth={3 if box.chosen else 1}'
    link = f' URL={_quoted("?" + urlencode(box.link))} target="_self"' if box.link else ""
    return f"label={_quoted(text)} {look} tooltip={_quoted(box.kind)}{link}"


def _quoted(text: str) -> str:
    # A backslash begins an escape such as \N in Graphviz's labels.
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
