"""The steps of a run over time."""

from typing import Final

import streamlit as st

from agentsys.ui.dot import LONGEST_TITLE
from agentsys.ui.formatting import label_text
from agentsys.ui.snapshot import Snapshot
from agentsys.views.texts import count_text, shorten
from agentsys.views.timeline import Span, run_spans

MOST_DRAWN: Final = 200
ROW_PIXELS: Final = 20
FRAME_PIXELS: Final = 130
"""Height of the legend and the axis."""


def draw_timeline(snapshot: Snapshot, run: str) -> None:
    """Draw each step as a bar from its start to its end, in the order in which they began."""
    spans = run_spans(snapshot.look(snapshot.views.graph, run))
    shown = spans[:MOST_DRAWN]
    st.vega_lite_chart(timeline_spec(shown), width="stretch", height=FRAME_PIXELS + ROW_PIXELS * len(shown))
    rest = len(spans) - MOST_DRAWN
    st.caption("Seconds since the run began." + (f" {count_text(rest, 'later step')} not drawn." if rest > 0 else ""))


def timeline_spec(spans: tuple[Span, ...]) -> dict[str, object]:
    """Return the chart in Vega-Lite's language; the theme of the page gives the colours."""
    rows = [
        {
            "row": number,
            "step": f"{number + 1}. {span.node.kind}: {shorten(span.node.title, LONGEST_TITLE)}",
            "kind": span.node.kind,
            "start": round(span.start, 4),
            "end": round(span.end, 4),
            "seconds": round(span.end - span.start, 4),
            "label": label_text(span.node.label),
        }
        for number, span in enumerate(spans)
    ]
    across = {
        "y": {
            "field": "step",
            "type": "nominal",
            "sort": {"field": "row"},
            "axis": {"title": None, "labelLimit": 360, "labelOverlap": False},
        },
        "x": {"field": "start", "type": "quantitative", "axis": {"title": "seconds"}},
        "color": {
            "field": "kind",
            "type": "nominal",
            "legend": {"title": None, "orient": "top"},
            "scale": {"scheme": "tableau10"},
        },
        "tooltip": [{"field": name} for name in ("step", "start", "end", "seconds", "label")],
    }
    return {
        "data": {"values": rows},
        "encoding": across,
        "layer": [
            {"mark": {"type": "bar", "height": 10}, "encoding": {"x2": {"field": "end"}}},
            # A moment has no width, and would not be seen.
            {"mark": {"type": "tick", "thickness": 2, "height": 10}},
        ],
    }
