"""Isolation, shown by checkers: clients of a board keep histories, in which no forbidden anomaly may be found.

``histories`` and ``worker`` keep what clients saw, ``list_append`` and ``cycles`` look for Adya's cycles in it,
``predicate_reads`` evaluates every predicate read again, ``planted`` has a violation of each kind.
"""


def __getattr__(name: str) -> object:
    """Import ``main`` when it is asked for: the worker processes need none of what it takes."""
    if name == "main":
        from agentsys.benchmarks.isolation.bench import main

        return main
    raise AttributeError(name)
