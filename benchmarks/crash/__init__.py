"""Crashes, shown by checkers: processes that commit and act on the world are killed; nothing acknowledged may be lost.

``client`` is the process that is killed, ``world`` what its effects change, ``trial`` kills and restarts, ``faults``
says what is wrong afterwards, ``planted`` has a storage and a recovery that must be caught.
"""


def __getattr__(name: str) -> object:
    """Import ``main`` when it is asked for: the processes to be killed need none of what it takes."""
    if name == "main":
        from agentsys.benchmarks.crash.bench import main

        return main
    raise AttributeError(name)
