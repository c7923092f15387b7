"""What a command has the garbage collector do, and leave."""

import subprocess
import sys

import pytest

LEFT = """
class Cycle:
    def __init__(self):
        self.itself = self

    def __del__(self):
        print("looked at")

Cycle()
"""
SPARED = "from agentsys.cli.startup import spare_the_collector\nspare_the_collector()\n"


@pytest.mark.parametrize(("before", "said"), [("", "looked at\n"), (SPARED, "")])
def test_what_is_left_when_a_command_ends_is_not_looked_at(before: str, said: str) -> None:
    ended = subprocess.run([sys.executable, "-c", before + LEFT], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, said)


def test_what_was_frozen_is_looked_at_where_a_module_tells_of_what_is_left() -> None:
    """As a server does that reads a lake: DuckDB's binding wrote a page of what leaked when that ended."""
    command = (
        f"{SPARED}from agentsys.cli.startup import calm_the_collector\nimport duckdb\n"
        f"{LEFT.replace('Cycle()', 'kept = Cycle()')}\ncalm_the_collector()\n"
    )
    ended = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "looked at\n", "")


def test_new_objects_are_looked_at_less_often_and_still_are() -> None:
    counted = "import gc, sys\nprint(gc.get_threshold()[0], gc.isenabled())"
    ended = subprocess.run([sys.executable, "-c", SPARED + counted], capture_output=True, text=True, timeout=60)
    assert ended.stdout == "10000 True\n"
