"""What a command tells the garbage collector, and one that lives long once everything is loaded."""

import atexit
import gc
import sys
from typing import Final

_TELL_OF_WHAT_IS_LEFT: Final = {"_duckdb"}
"""Modules that write on stderr, when a process ends, of their objects that were not collected."""

YOUNG: Final = 10_000
"""Objects by which a process grows before the garbage collector looks at the new ones, in place of Python's 700.

What hundreds of agents have under way is thousands of objects. All end without the collector; if it looks too soon, it
takes them for what stays, and soon looks at all that does.
"""


def spare_the_collector() -> None:
    """Have new objects looked at less often while a command loads what it needs, and nothing looked at when it ends.

    Modules are most of what there is, and stay to the end; to look through them takes longer than many commands do.
    """
    _look_less_often()
    atexit.register(_leave_what_is_there)  # before all that follow, so it is called after them


def calm_the_collector() -> None:
    """Tell the garbage collector that what exists by now stays, and to look at what is new less often.

    It would else look through all modules whenever what a board remembers has grown by a quarter of them, which stops
    every thread for as long as hundreds of commits take.
    """
    gc.collect()
    gc.freeze()
    _look_less_often()


def _leave_what_is_there() -> None:
    if sys.modules.keys().isdisjoint(_TELL_OF_WHAT_IS_LEFT):
        gc.freeze()
    else:
        gc.unfreeze()


def _look_less_often() -> None:
    _, middle, old = gc.get_threshold()
    gc.set_threshold(YOUNG, middle, old)
