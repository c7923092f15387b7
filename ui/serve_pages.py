"""Runs Streamlit until the process that started it has ended: ``python -m agentsys.ui.serve_pages`` and its arguments.

Its standard input is a pipe that the starter holds open. The system closes it however the starter dies, so that no
server outlives it.
"""

import os
import signal
import sys
import threading


def main() -> None:
    """Serve until standard input ends or a signal comes."""
    threading.Thread(target=_end_with_starter, daemon=True).start()
    from streamlit.web.cli import main as streamlit

    streamlit(sys.argv[1:], prog_name="streamlit")


def _end_with_starter() -> None:
    while os.read(sys.stdin.fileno(), 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
