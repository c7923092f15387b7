"""Workflows on one real engine: what serving by urgency buys over vLLM's own orders, at the same work.

``pacing`` makes the seeded traces, ``driver`` runs one against an engine, ``arms`` says who orders the calls and how,
``calibration`` measures what the engine can do, ``figures`` turns outcomes into SLO scales, ``bench`` puts it together.
"""


def __getattr__(name: str) -> object:
    """Import ``main`` when it is asked for: vLLM's own processes import this package and need none of it."""
    if name == "main":
        from agentsys.benchmarks.serving.bench import main

        return main
    raise AttributeError(name)
