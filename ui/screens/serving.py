"""The page of the serving layer: the queue by urgency, throughput, latencies; ``?model=NAME`` chooses an engine."""

import time
from typing import Final

import streamlit as st

from agentsys.errors import AgentsysError
from agentsys.protocols.http.serving_documents import EngineDocument, LoadDocument, RequestDocument
from agentsys.ui.boards import BoardTrouble, trouble_of
from agentsys.ui.connection import connect
from agentsys.ui.formatting import Chip, Tone, escape_markdown
from agentsys.ui.load_figures import due_text, headline, latency_rows, recent_rows, residence_chips
from agentsys.ui.screens.addresses import RUN_PAGE
from agentsys.ui.screens.widgets import draw_chips, draw_section, draw_table, draw_trouble
from agentsys.views.texts import count_text, shorten

REFRESH_SECONDS: Final = 1.0
SHOWN_REQUESTS: Final = 30
SHOWN_ENDED: Final = 50
LONGEST_NAME: Final = 16
PHASE_TONES: Final[dict[str, Tone]] = {"waiting": "orange", "prefill": "blue", "decode": "green", "paused": "red"}


def draw_page() -> None:
    """Draw the load of one engine."""
    st.header("Serving", anchor=False)
    try:
        models = connect().models()
    except AgentsysError as error:
        draw_trouble(trouble_of(error))
        return
    if not models:
        draw_trouble(BoardTrouble("The model of this server is no serving layer.", "Only engines tell their load."))
        return
    model = models[0]
    if len(models) > 1:
        model = str(st.selectbox("Model", models, key="model", bind="query-params", width=360))
    _live_load(model)


@st.fragment(run_every=REFRESH_SECONDS)
def _live_load(model: str) -> None:
    try:
        engine = next((engine for engine in connect().serving() if engine.model == model), None)
    except AgentsysError as error:
        draw_trouble(trouble_of(error))
        return
    if engine is None:
        draw_trouble(BoardTrouble(f"The server has no model {model} any more.", "Load the page anew."))
        return
    st.caption(escape_markdown(engine.model))
    if engine.residence is not None:
        draw_chips(residence_chips(engine.residence))
    if engine.load is None or engine.stats is None:
        st.info("The engine is not loaded: the next call of the model loads it.", icon=":material/hourglass_empty:")
        return
    _draw_load(engine, engine.stats, engine.load)


def _draw_load(engine: EngineDocument, stats: dict[str, int], load: LoadDocument) -> None:
    figures = headline(stats, load)
    for column, (name, figure) in zip(st.columns(len(figures)), figures, strict=True):
        column.metric(name, figure)
    _draw_queue(load)
    throughput, latencies = st.columns([3, 2])
    with throughput:
        _draw_throughput(load.tokens_per_second)
    with latencies:
        st.markdown("##### Latencies")
        draw_table(latency_rows(load))
        _draw_speculation(stats)
    draw_section("Requests that ended, the newest first", recent_rows(load.recent[:SHOWN_ENDED]))


def _draw_queue(load: LoadDocument) -> None:
    st.markdown("##### Queue, the most urgent first")
    if not load.queue_known:
        st.caption("This engine does not tell its queue: what is shown is what its answers let us know.")
    if not load.requests:
        st.caption("Nothing waits or runs.")
    with st.container(gap="xsmall"):
        for request in load.requests[:SHOWN_REQUESTS]:
            _draw_request(request)
    rest = len(load.requests) - SHOWN_REQUESTS
    if rest > 0:
        st.caption(f"and {count_text(rest, 'request')} less urgent")


def _draw_request(request: RequestDocument) -> None:
    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        if request.run:
            label = escape_markdown(f"{request.agent or 'run'} · {request.run}")
            st.page_link(RUN_PAGE, label=label, query_params={"run": request.run})
        else:
            st.text(f"request {shorten(request.request_id, LONGEST_NAME)}")
        facts = [due_text(request.urgency, time.time()), count_text(request.tokens, "token")]
        if request.usage.preemptions:
            facts.append(f"paused {count_text(request.usage.preemptions, 'time')}")
        draw_chips(
            [Chip(request.phase, PHASE_TONES.get(request.phase, "gray")), *(Chip(fact, "gray") for fact in facts)]
        )


def _draw_throughput(tokens_per_second: list[int]) -> None:
    st.markdown("##### Tokens a second")
    count = len(tokens_per_second)
    data = {"seconds from now": list(range(1 - count, 1)), "tokens a second": tokens_per_second}
    st.area_chart(data, x="seconds from now", y="tokens a second", height=220)


def _draw_speculation(stats: dict[str, int]) -> None:
    drafted, accepted = stats["drafted_tokens"], stats["accepted_tokens"]
    steps, generated = stats["steps"], stats["generated_tokens"]
    per_step = f" · {generated / steps:.2f} tokens a step" if steps else ""
    st.caption(
        f"{accepted:,} of {drafted:,} drafted tokens accepted · {count_text(generated, 'token')} generated{per_step}"
    )


if __name__ == "__main__":
    draw_page()
