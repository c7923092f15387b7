"""Names of transactions: unique, and in the order of their beginning."""

import os
import time
from random import Random
from typing import Final

# The system's own randomness costs a call that lets go of the interpreter, for each transaction; a seed of it will do.
_IDENTIFIERS: Final = Random()  # noqa: S311 - they must differ, not be secret
os.register_at_fork(after_in_child=_IDENTIFIERS.seed)


def new_id() -> str:
    """Return 128 bits in hexadecimal: 48 of milliseconds since 1970, then random ones (the order of RFC 9562, 5.7).

    The log has an index of them: those of one moment lie together there, and a batch changes few of its pages.
    """
    return f"{time.time_ns() // 1_000_000:012x}{_IDENTIFIERS.getrandbits(80):020x}"
