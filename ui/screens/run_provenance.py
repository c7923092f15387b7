"""Where a value of a run came from, what it shaped, and why the gateway refused what it refused."""

import json
from typing import Final
from urllib.parse import urlencode

import streamlit as st
from pydantic import TypeAdapter

from agentsys import topics
from agentsys.ui.connection import connect
from agentsys.ui.formatting import Chip, escape_markdown
from agentsys.ui.lineage import essential, lineage_dot, link_parameters, origin_text
from agentsys.ui.screens.widgets import draw_chips, draw_label, status_chip
from agentsys.ui.snapshot import Snapshot
from agentsys.views.provenance import Provenance
from agentsys.views.why import Why

MOST_CHOICES: Final = 1000
ADDRESS: Final = ("topic", "key")
FORM: Final = TypeAdapter(Provenance)


def draw_provenance(snapshot: Snapshot, run: str) -> None:
    """Draw the provenance of the entry that the URL names, by default the run's own record, its answer."""
    topic, key = _chosen(snapshot, run)
    found = snapshot.look(snapshot.views.provenance, topic, key)
    value = found.node(found.value)
    if value is not None:
        draw_label(value.label)
    st.markdown("##### Why this label")
    st.markdown("\n".join(f"- {escape_markdown(origin_text(found, origin))}" for origin in found.origins))
    _draw_rules(found)
    if topic == topics.steps(run):
        _draw_decisions(snapshot.look(snapshot.views.why, run, key))
    st.markdown("##### Derivation and influence")
    everything = st.toggle("All records, not only the ways of the label", key="all_records")
    st.graphviz_chart(lineage_dot(found if everything else essential(found), run))
    st.caption(
        "The heavy border is the value; what it came from is left of it, what it shaped in this run is right. A click "
        f"opens another.{' Farther records are left out.' if found.cut else ''}"
    )
    _draw_export(snapshot, found, topic, key)


def _chosen(snapshot: Snapshot, run: str) -> tuple[str, str]:
    asked = (st.query_params.get("topic", topics.RUNS), st.query_params.get("key", run))
    listed = snapshot.look(snapshot.views.entries, run=run, limit=MOST_CHOICES).entries
    choices = list(dict.fromkeys([asked, *((entry.topic, entry.key) for entry in listed)]))
    widget = f"provenance_{asked}"
    st.selectbox("Value", choices, index=0, format_func=" / ".join, key=widget, on_change=_choose, args=(widget, run))
    return asked


def _choose(widget: str, run: str) -> None:
    for name, value in link_parameters(run, *st.session_state[widget]).items():
        # The view is a widget's own, and stays.
        if name in ADDRESS:
            st.query_params[name] = value


def _draw_rules(found: Provenance) -> None:
    for node in found.nodes:
        if node.lowered and node.side != "downstream":
            why = f" by {node.endorsement.by}: {node.endorsement.reason}" if node.endorsement else ""
            st.info(escape_markdown(f"The label of {node.title} was lowered{why}."), icon=":material/verified_user:")
    for denied in found.denials:
        what = "something withheld" if denied.withheld else denied.action
        said = f"{denied.agent} may not {what}, by rule {denied.rule}: {denied.reason or 'the reason is withheld'}."
        st.error(escape_markdown(said), icon=":material/block:")


def _draw_decisions(found: Why) -> None:
    """Draw what was decided about a step, and on which labels."""
    for decided in found.decisions:
        decision = decided.decision
        with st.container(border=True):
            verdict = "asked" if decision.asked else "allowed" if decision.allowed else "denied"
            draw_chips([status_chip(verdict), Chip(f"rule {decision.rule}", "gray"), _policy(decision.policy)])
            st.markdown(escape_markdown(decision.action or "withheld"))
            if decision.reason:
                st.caption(escape_markdown(decision.reason))
            for part in decided.parts:
                with st.container(horizontal=True, vertical_alignment="center"):
                    st.markdown(f"**{escape_markdown(part.name)}**", width="content")
                    draw_label(part.label)


def _policy(version: str) -> Chip:
    return Chip(f"policy {version[:12]}" if version else "policy not recorded", "gray")


def _draw_export(snapshot: Snapshot, found: Provenance, topic: str, key: str) -> None:
    query = urlencode({"topic": topic, "key": key})
    prefix = "/recorded" if snapshot.recorded else ""
    st.download_button(
        "Export as JSON",
        json.dumps(FORM.dump_python(found, mode="json"), indent=2, ensure_ascii=False),
        file_name="provenance.json",
        mime="application/json",
        icon=":material/download:",
        help=f'`curl -H "Authorization: Bearer $AGENTSYS_TOKEN" '
        f"'{connect().url}/api/v1{prefix}/views/provenance?{query}'`",
        on_click="ignore",
    )
