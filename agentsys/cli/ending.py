"""The end of a process that executes runs."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from agentsys.cli.output import ExitCode

if TYPE_CHECKING:
    from agentsys.supervisor import RunSupervisor


def end_without_what_goes_on(supervisor: RunSupervisor) -> None:
    """End this process at once where a run goes on that was interrupted: its event loop would wait for that for ever.

    Call it last, when all that has to be closed is.
    """
    if supervisor.at_work:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ExitCode.FAILED)
