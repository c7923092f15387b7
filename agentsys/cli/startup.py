"""What a process that lives long does once everything is loaded."""

import gc
from typing import Final

YOUNG: Final = 10_000
"""Objects by which a process grows before the garbage collector looks at the new ones, in place of Python's 700.

What hundreds of agents have under way is thousands of objects. All end without the collector; if it looks too soon, it
takes them for what stays, and soon looks at all that does.
"""


def calm_the_collector() -> None:
    """Tell the garbage collector that what exists by now stays, and to look at what is new less often.

    It would else look through all modules whenever what a board remembers has grown by a quarter of them, which stops
    every thread for as long as hundreds of commits take.
    """
    gc.collect()
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(YOUNG, middle, old)
