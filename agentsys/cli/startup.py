"""What a process that lives long does once everything is loaded."""

import gc


def keep_what_is_loaded() -> None:
    """Tell the garbage collector that what exists by now stays.

    It would else look through all modules whenever what a board remembers has grown by a quarter of them, which stops
    every thread for as long as hundreds of commits take.
    """
    gc.collect()
    gc.freeze()
