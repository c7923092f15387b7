"""The page of one run."""

import time
from datetime import datetime

import streamlit as st

from agentsys.blackboard.entries import Json
from agentsys.ui.formatting import Chip, duration_text, escape_markdown, label_text, shorten, value_text
from agentsys.ui.run_list import RunRow, input_text
from agentsys.ui.run_view import AnswerView, RoundView, RunView, failure_text
from agentsys.ui.screens.widgets import draw_chips, draw_label, draw_table, status_chip


def draw_run(view: RunView) -> None:
    """Draw everything recorded of a run, the outcome first."""
    row = view.row
    st.subheader(escape_markdown(shorten(input_text(view.input))), anchor=False)
    draw_chips([status_chip(row.status), *_facts(row)])
    if view.failure:
        st.error(escape_markdown(failure_text(view.failure)), icon=":material/error:")
    elif row.status == "running":
        st.caption("Not finished. If the process that ran it has ended, run the same command with its --resume option.")
    if view.answer:
        _draw_answer(view.answer)
    draw_label(row.label)
    _draw_rounds(view)
    _draw_calls(view)


def _facts(row: RunRow) -> list[Chip]:
    started = datetime.fromtimestamp(row.started).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    facts = [f"workflow {row.workflow}", f"run {row.run}", f"started {started}"]
    facts.append(f"{'took' if row.finished else 'for'} {duration_text(row.seconds(time.time()))}")
    if row.tokens is not None:
        facts.append(f"{row.tokens:,} tokens")
    return [Chip(fact, "gray") for fact in facts]


def _draw_answer(answer: AnswerView) -> None:
    st.markdown("#### Answer")
    if len(answer.rows) > 1 or len(answer.columns) > 1:
        # Cells of one column may differ in type, which a data frame's columns may not.
        draw_table([dict(zip(answer.columns, map(value_text, row), strict=True)) for row in answer.rows])
    else:
        _draw_value(answer.value)
    if answer.plan is not None:
        st.markdown("#### Plan")
        st.code(answer.plan, language="sql", wrap_lines=True)
    if answer.sources:
        st.markdown("#### Sources")
        draw_table(
            [
                {
                    "family": source.family,
                    "files": ", ".join(source.files),
                    "columns": ", ".join(source.columns) or "none: rows were only counted",
                }
                for source in answer.sources
            ]
        )


def _draw_value(value: Json) -> None:
    if isinstance(value, dict | list):
        st.json(value, expanded=2)
    else:
        st.markdown(f"### {escape_markdown(value_text(value))}")


def _draw_rounds(view: RunView) -> None:
    if view.rounds:
        st.markdown("#### Rounds")
    for opened in view.rounds:
        with st.container(border=True):
            _draw_round(opened)


def _draw_round(opened: RoundView) -> None:
    st.markdown(
        f"**{escape_markdown(opened.asked_by)}** asked for **{escape_markdown(opened.kind)}**: "
        + escape_markdown(shorten(input_text(opened.value)))
    )
    draw_chips([Chip(opened.outcome or "open", "green" if opened.outcome == "answered" else "orange")])
    if opened.bids:
        st.caption("Bids, best first")
        draw_table(
            [
                {
                    "agent": bid.agent,
                    "score": bid.score,
                    "chosen": "chosen" if bid.chosen else "not chosen",
                    "reason": bid.reason,
                    "label": label_text(bid.label),
                }
                for bid in opened.bids
            ]
        )
    for response in opened.responses:
        with st.expander(escape_markdown(f"{response.agent} responded: {response.status}")):
            draw_label(response.label)
            if response.failure:
                st.text(response.failure)
            else:
                st.json(response.value) if isinstance(response.value, dict | list) else st.text(
                    value_text(response.value)
                )


def _draw_calls(view: RunView) -> None:
    if view.decisions:
        st.markdown("#### Decisions of the gateway")
        draw_table(
            [
                {
                    "agent": decision.agent,
                    "action": decision.action,
                    "decision": "allowed" if decision.allowed else "denied",
                    "rule": decision.rule,
                    "reason": decision.reason,
                }
                for decision in view.decisions
            ]
        )
    if view.model_calls:
        st.markdown("#### Model calls")
        draw_table(
            [
                {
                    "step": call.step,
                    "model": call.model,
                    "prompt tokens": call.prompt_tokens,
                    "completion tokens": call.completion_tokens,
                    "seconds": round(call.seconds, 3),
                    "text": call.fault or call.text,
                }
                for call in view.model_calls
            ]
        )
    if view.tool_calls:
        st.markdown("#### Tool calls")
        draw_table(
            [
                {
                    "tool": call.tool,
                    "state": call.state,
                    "class": call.effect_class,
                    "attempts": call.attempts,
                    "step": call.step,
                }
                for call in view.tool_calls
            ]
        )
