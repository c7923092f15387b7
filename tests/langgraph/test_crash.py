"""An unmodified LangGraph agent, killed with SIGKILL in the middle, goes on in another process from the same board."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentsys.serving.weights.pull import pull

PROGRAM = Path(__file__).with_name("crash_program.py")


class Crashing:
    """Runs the program over one board."""

    def __init__(self, folder):
        self._board = folder / "board.db"
        self._log = folder / "log"
        self._log.touch()

    @property
    def log(self):
        return self._log.read_text().split()

    def start(self, action, wait_in=""):
        command = [sys.executable, str(PROGRAM), str(self._board), str(self._log), action]
        environment = os.environ | {"WAIT_IN": wait_in}
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def kill(self, action, place):
        """Start, and kill the process once it is in ``place``."""
        known = self.log.count(place)
        with self.start(action, wait_in=place) as process:
            deadline = time.monotonic() + 120
            while self.log.count(place) == known:
                assert process.poll() is None and time.monotonic() < deadline, process.communicate()
                time.sleep(0.05)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL

    def finish(self, action):
        with self.start(action) as process:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, out + err
        return out


@pytest.mark.model
def test_checkpoints_on_the_board_outlive_two_kills(tmp_path):
    pull()
    crashing = Crashing(tmp_path)
    crashing.kill("start", "multiply")
    assert crashing.log == ["agent", "multiply"]
    crashing.kill("continue", "interrupted")
    assert crashing.log[2:] == ["multiply", "agent", "review", "interrupted"], "the finished node is not repeated"
    out = crashing.finish("approve")
    assert crashing.log[6:] == ["review", "publish"], "LangGraph enters an interrupted node again, and no other"
    assert "DONE ['human', 'ai', 'tool', 'ai', 'ai'] Published: " in out


def test_a_killed_run_resumes_without_a_second_call_of_the_model(tmp_path):
    crashing = Crashing(tmp_path)
    crashing.kill("run", "multiply")
    assert crashing.log.count("model") == 1
    crashing.kill("continued", "asked")
    assert crashing.log.count("model") == 2, "the answer on record was not asked for again"
    assert crashing.log.count("multiply") == 2, "the tool that had not returned was called again"
    out = crashing.finish("resume")
    assert "DONE Published: It is 42." in out
    assert crashing.log.count("model") == 2 and crashing.log.count("publish") == 1
