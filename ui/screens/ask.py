"""The page that starts runs and shows them as they go on; ``?workflow=NAME`` chooses, ``?run=ID`` is the run shown."""

from collections.abc import Sequence
from typing import Final

import streamlit as st

from agentsys.errors import AgentsysError
from agentsys.lake.ask import ASK
from agentsys.protocols.http.schemas import AgentDocument
from agentsys.ui.boards import BoardTrouble, trouble_of
from agentsys.ui.connection import connect
from agentsys.ui.questions import LAKE_COMMAND, Question, examples_for, in_order, tables_of
from agentsys.ui.screens.progress import draw_watched_run
from agentsys.ui.screens.widgets import draw_table, draw_trouble

TEXT: Final = "asked_text"
JSON: Final = "asked_json"
REFUSAL: Final = "asked_refusal"


def draw_page() -> None:
    """Draw the question, and the run that came of it."""
    st.header("Ask", anchor=False)
    try:
        workflows = in_order(workflow.name for workflow in connect().workflows())
        agents = connect().agents()
    except AgentsysError as error:
        draw_trouble(trouble_of(error))
        return
    if not workflows:
        nothing = "This server has no workflows, so there is nothing to ask."
        draw_trouble(BoardTrouble(nothing, "Serve a folder of data files:", LAKE_COMMAND))
    else:
        _draw_question(_chosen(workflows), agents)
    if isinstance(refusal := st.session_state.pop(REFUSAL, None), AgentsysError):
        draw_trouble(trouble_of(refusal))
    run = st.query_params.get("run")
    if run:
        draw_watched_run(run)


def _chosen(workflows: list[str]) -> str:
    if len(workflows) == 1:
        return workflows[0]
    chosen = st.selectbox("Workflow", workflows, key="workflow", bind="query-params", width=360)
    if ASK not in workflows:
        st.caption(f"Questions over data files need a lake: `{LAKE_COMMAND}`.")
    return str(chosen)


def _draw_question(workflow: str, agents: Sequence[AgentDocument]) -> None:
    examples = examples_for(agent.name for agent in agents)
    if workflow == ASK and examples:
        with st.container(horizontal=True, gap="small"):
            for number, example in enumerate(examples):
                st.button(example, key=f"example_{number}", on_click=_ask_example, args=(example,))
    with st.form("ask", border=False):
        if workflow == ASK:
            st.text_input("Question", key=TEXT, placeholder="What do you want to know of the data?")
        else:
            st.text_area("Input", key=TEXT, height=100, placeholder="The input of the workflow")
            st.checkbox("The input is JSON", key=JSON)
        st.form_submit_button("Ask", type="primary", on_click=_start, args=(workflow,))
    if workflow == ASK and (tables := tables_of(agents)):
        title = f"The data: {len(tables):,} table{'s' * (len(tables) > 1)}"
        with st.expander(title, expanded="run" not in st.query_params):
            draw_table(tables)


def _ask_example(example: str) -> None:
    st.session_state[TEXT] = example
    _start(ASK)


def _start(workflow: str) -> None:
    """Start the run, whose identifier in the URL outlives a reload."""
    text = str(st.session_state.get(TEXT, "")).strip()
    question = Question(workflow, text, as_json=bool(st.session_state.get(JSON)))
    try:
        st.query_params["run"] = connect().start(workflow, question.input)
    except AgentsysError as error:
        st.session_state[REFUSAL] = error


if __name__ == "__main__":
    draw_page()
