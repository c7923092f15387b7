"""``run_python``: values, output and errors come back, and what the code must not do it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentsys.blackboard.board import Board
from agentsys.blackboard.labels import Label
from agentsys.containment.limits import MIB
from agentsys.containment.walls import STRONG, ContainmentUnavailable, Walls, walls_here
from agentsys.labelled import Labelled
from agentsys.runtime import Runtime
from agentsys.testing import ScriptedModel
from agentsys.toolbox.python import DEFAULT_LIMITS, BadProgram, python_tool

pytestmark = pytest.mark.skipif(not walls_here().held >= STRONG, reason="this machine has too few walls")


def run(code: str, files: dict[str, str] | None = None, **options: Any) -> Any:
    return python_tool(**options).function(code=code, files=files or {})


@pytest.mark.parametrize(
    ("code", "value"),
    [
        ("1 + 1", 2),
        ("x = 3\nx * 2", 6),
        ("def f(n): return n if n < 2 else f(n - 1) + f(n - 2)\nf(15)", 610),
        ("{'a': (1, 2.5), 3: None, 'b': {True}}", {"a": [1, 2.5], "3": None, "b": [True]}),
        ("float('nan')", None),
        ("10**5000", f"1{'0' * 5000}"),
        ("[-(2**13000), 2**12999]", [f"-{2**13000}", 2**12999]),
        ("import datetime; datetime.date(2024, 2, 3)", "2024-02-03"),
        ("import numpy; numpy.arange(3) * 2", [0, 2, 4]),
        ("import decimal; decimal.Decimal('1.5')", "Decimal('1.5')"),
        ("['\\ud800', 'é']", ["\\ud800", "é"]),
        ("{1: 'a', '1': 'b', 2: {'c': {1}}}", "{1: 'a', '1': 'b', 2: {'c': {1}}}"),
        ("x = 1", None),
        ("", None),
        ("open('a.csv').read().split(',')", ["1", "2"]),
        ("import math\nmath.sqrt(16)  # comment", 4.0),
    ],
)
def test_the_value_of_the_last_expression_comes_back(code: str, value: Any) -> None:
    assert run(code, {"a.csv": "1,2"}) == {"stdout": "", "value": value, "error": None}


def test_what_is_printed_comes_back_beside_the_value() -> None:
    result = run("import os, sys\nprint('hé')\nos.write(1, b'raw ')\nprint('warned', file=sys.stderr)\n7")
    assert result["value"] == 7 and result["error"] is None
    assert sorted(result["stdout"].split()) == ["hé", "raw", "warned"]


def test_an_error_that_names_what_is_no_text_comes_back() -> None:
    assert run("raise ValueError('\\ud800')")["error"].endswith("ValueError: \\ud800")


def test_an_error_comes_back_from_where_the_code_raised_it() -> None:
    result = run("def half(x):\n    return x / 0\nprint('before')\nhalf(1)")
    assert result["stdout"] == "before\n" and result["value"] is None
    assert result["error"].splitlines()[-1] == "ZeroDivisionError: division by zero"
    assert "line 2, in half" in result["error"] and "python_program" not in result["error"]
    assert "SyntaxError" in run("1 +")["error"]
    assert run("raise SystemExit(3)")["error"] == "Traceback (most recent call last):\n" + (
        '  File "<code>", line 1, in <module>\nSystemExit: 3'
    )


def test_limits_come_back_as_errors_with_what_was_printed() -> None:
    quick = replace(DEFAULT_LIMITS, seconds=1, memory_bytes=256 * MIB, output_bytes=10_000)
    assert run("print('hi', flush=True)\nwhile True: pass", limits=quick) == {
        "stdout": "hi\n",
        "value": None,
        "error": "it ran longer than 1 s",
    }
    assert "MemoryError" in run("b'x' * (1 << 30)", limits=quick)["error"]
    assert run("while True: print('x')", limits=quick)["error"] == "it printed more than 10000 bytes"
    assert "status" in run("import os; os._exit(3)", limits=quick)["error"]
    assert "status" in run("import ctypes; ctypes.string_at(0)", limits=quick)["error"]


@pytest.mark.parametrize(
    "code",
    [
        "open('/etc/passwd').read()",
        "import socket; socket.socket()",
        "import subprocess; subprocess.run(['true'])",
        "import os; os.fork()",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "open('/tmp/agentsys-escape', 'w')",
        "import sys; sys.modules['os'].listdir('/root')",
    ],
)
def test_the_code_is_contained(code: str) -> None:
    assert "Error" in run(code)["error"]


def test_an_answer_that_the_code_forges_is_an_answer_and_nothing_worse() -> None:
    writing = "for n in range(3, 20):\n  try: os.write(n, b'[1]')\n  except OSError: pass\n"
    forged = f"import os\nos.write(3, b'nonsense')\n{writing}os._exit(0)"
    assert set(run(forged)) == {"stdout", "value", "error"}


@pytest.mark.parametrize("name", ["../up", "/abs", "", "a/b", ".hidden", "x\0y"])
def test_files_have_plain_names(name: str) -> None:
    with pytest.raises(BadProgram):
        run("1", {name: "text"})


def test_code_that_is_too_long_is_refused() -> None:
    with pytest.raises(BadProgram, match="100000"):
        run("1" * 100_001)


def test_granted_folders_can_be_read_and_not_written(tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("granted")
    path = str(tmp_path / "data.txt")
    assert run(f"open({path!r}).read()", readable=[tmp_path])["value"] == "granted"
    assert "Error" in run(f"open({path!r}, 'w')", readable=[tmp_path])["error"]
    assert python_tool(readable=[tmp_path]).source == Label(), "undeclared: anybody's"
    assert python_tool().source is None


def test_a_machine_without_walls_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agentsys.containment.process.walls_here", lambda: Walls(limits=True))
    with pytest.raises(ContainmentUnavailable, match="opens no connection"):
        run("1 + 1")
    assert run("1 + 1", weak=True)["value"] == 2


async def test_in_a_run_the_result_carries_the_labels_of_the_code_and_its_files() -> None:
    async def workflow(context: Any, value: Any) -> Any:
        stranger = Labelled("5", Label(frozenset({"external"})))
        plain = await context.call("run_python", code="6 * 7")
        assert context.label.influencers == {"user:owner"}
        shaped = await context.call("run_python", code="int(open('n').read())", files={"n": stranger})
        assert "external" in shaped.label.influencers
        return [plain.value["value"], shaped.value["value"]]

    with Board.open(":memory:") as board:
        runtime = Runtime(board, ScriptedModel(str), tools=[python_tool()], workflows=[workflow])
        result = await runtime.run("workflow")
        assert result.failure is None and result.value == [42, 5]
        assert (await runtime.replay(result.run)).identical
