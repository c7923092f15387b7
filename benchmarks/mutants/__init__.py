"""Mutants: the policy engine with one small fault at a time, which its tests must notice.

``mutations`` makes them, ``targets`` says of which modules and which are no faults, ``worker`` tries them in forks.
"""


def __getattr__(name: str) -> object:
    """Import ``main`` when it is asked for: a worker must not load what it is to mutate."""
    if name == "main":
        from agentsys.benchmarks.mutants.bench import main

        return main
    raise AttributeError(name)
