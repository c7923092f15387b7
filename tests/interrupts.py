"""Interrupts of processes that tests start."""

from __future__ import annotations

import signal
from functools import partial

hearing_interrupts = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
"""For ``preexec_fn``: tests that run in a shell's background were told to ignore interrupts, and would hand that on."""
