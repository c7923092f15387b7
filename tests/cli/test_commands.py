"""The command line as a user meets it: exit codes, streams, JSON, bad input. Each command is a process of its own."""

from __future__ import annotations

import json
import os
import re
import select
import shlex
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

import agentsys.ui
from agentsys.blackboard.board import Board
from agentsys.cli.app import app as cli
from agentsys.cli.doctor import check_queries
from agentsys.lake.queries import sandbox
from agentsys.runs import list_runs
from agentsys.serving import models as serving_models
from agentsys.serving.weights import pull as pull_module
from agentsys.serving.weights.errors import UnknownModelError
from agentsys.serving.weights.progress import ProgressListener, PullProgress
from agentsys.settings import Settings
from tests.interrupts import hearing_interrupts

Run = Callable[..., subprocess.CompletedProcess[str]]

WORKFLOW = """
from agentsys import EffectClass, Workflow, agent, tool


@tool(effect=EffectClass.PURE)
def double(number: int) -> int:
    return 2 * number


@agent(kind="double")
async def doubler(context, request):
    return (await context.call("double", number=request.value)).value


async def main(context, number):
    outcome = await context.ask("double", number, single=True)
    return outcome.value + 1


workflow = Workflow("arithmetic", main)
"""


GREETING = """
from agentsys import Workflow


async def greet(context, _):
    return await context.generate("Greet Ada.")


workflow = Workflow("greet", greet)
"""


@pytest.mark.parametrize("said", ["print_json({})", "out.print('table')"])
def test_what_a_command_says_is_there_before_it_ends(said: str) -> None:
    """As its reader through a pipe sees it, where Python keeps what is written until there is much of it."""
    script = f"from agentsys.cli.output import out, print_json; {said}; import time; time.sleep(60)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment) as process:
        readable, _, _ = select.select([process.stdout], [], [], 20)
        process.kill()
    assert readable


def commands_in(folder: Path) -> Run:
    """Run ``agentsys`` in a folder, with its own board, lake cache and home."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AGENTSYS_")},
        "AGENTSYS_BOARD__PATH": str(folder / "state" / "board.db"),
        "AGENTSYS_LAKE__CACHE": str(folder / "lakes"),
        "NO_COLOR": "1",
        "COLUMNS": "200",
    }

    def invoke(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from agentsys.cli.app import main; main()", *arguments],
            cwd=folder,
            env={**environment, **changes},
            capture_output=True,
            text=True,
            timeout=240,
        )

    return invoke


def towns(folder: Path) -> Path:
    lake = folder / "lake"
    lake.mkdir()
    (lake / "towns.csv").write_text("town,people\nRome,2800000\nOslo,700000\n")
    return lake


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return commands_in(tmp_path)


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return towns(tmp_path)


def error_of(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    error: dict[str, str] = json.loads(done.stderr.strip().splitlines()[-1])["error"]
    return error


def test_help_names_every_command(run: Run) -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("ask", "run", "replay", "models", "board", "doctor", "config", "bench"):
        assert command in done.stdout


@pytest.mark.parametrize("words", [["-h"], ["ask", "-h"], ["board", "log", "-h"]])
def test_help_has_a_short_name(words: list[str]) -> None:
    shown = CliRunner().invoke(cli, words)
    assert shown.exit_code == 0 and "Usage: " in shown.stdout


def test_the_examples_of_the_help_are_calls_of_their_command() -> None:
    root = typer.main.get_command(cli)
    context, waiting, tried = typer.Context(root, info_name="agentsys"), [root], 0
    for command in waiting:
        waiting += getattr(command, "commands", {}).values()
        for example in re.findall("`(agentsys .+?)`", command.epilog or ""):
            found, words = root, shlex.split(example)[1:]
            while hasattr(found, "resolve_command"):
                name, found, words = found.resolve_command(context, words)
            assert found is command, example
            found.make_context(name, words, parent=context)
            tried += 1
    assert tried > 20


def test_completion_scripts_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    # Typer would look for the shell among the processes around, and find none in some containers.
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    shown = CliRunner().invoke(cli, ["--show-completion", "bash"], prog_name="agentsys")
    assert "_AGENTSYS_COMPLETE" in shown.stdout, shown.output


def test_a_run_its_record_and_its_replay(run: Run, tmp_path: Path) -> None:
    (tmp_path / "arithmetic.py").write_text(WORKFLOW)
    done = run("run", "arithmetic.py", "--input", "20", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["status"], document["value"]) == ("done", 41)
    assert document["label"]["influencers"] == ["user:owner"]
    assert "doubler volunteers" in done.stderr

    with Board.open(tmp_path / "state" / "board.db"):
        replayed = run("replay", document["run"], "--json")
    assert json.loads(replayed.stdout)["identical"] is True

    commits = json.loads(run("board", "log", "--run", document["run"], "--json").stdout)
    assert [commit["seq"] for commit in commits] == sorted(commit["seq"] for commit in commits)
    for after in ("99", str(2**80)):
        assert json.loads(run("board", "log", "--after", after, "--json").stdout) == []
        assert json.loads(run("board", "log", "--after", after, "--run", document["run"], "--json").stdout) == []
    shown = json.loads(run("board", "show", "runs", document["run"], "--json").stdout)
    assert shown[0]["value"]["value"] == 41

    resumed = run("run", "arithmetic.py", "--resume", document["run"], "--json")
    assert json.loads(resumed.stdout)["value"] == 41


def test_a_changed_workflow_diverges(run: Run, tmp_path: Path) -> None:
    (tmp_path / "arithmetic.py").write_text(WORKFLOW)
    document = json.loads(run("run", "arithmetic.py", "--input", "20", "--json").stdout)
    (tmp_path / "arithmetic.py").write_text(WORKFLOW.replace('ask("double", number', 'ask("double", number + 1'))
    replayed = run("replay", document["run"])
    assert replayed.returncode == 1
    assert "DIVERGES" in replayed.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["run", "absent.py"], "AGS-0100", 2),
        (["run", "towns.txt", "--input", "{"], "AGS-0100", 2),
        (["ask", "--lake", "nowhere", "how many?"], "AGS-05", 1),
        (["ask", "--lake", "package:no_such_package", "how many?"], "AGS-0100", 2),
        (["ask", "--lake", "lake"], "AGS-0100", 2),
        (["ask", "--lake", "lake", "--planner", "clever", "how many?"], "AGS-0100", 2),
        (["board", "show", "nothing"], "AGS-0209", 1),
        (["bench", "nonsense"], "AGS-0100", 2),
        (["run", "x" * 300], "AGS-0100", 2),
        (["policy", "check", "x" * 300], "AGS-0100", 2),
        (["runs", "list", "--board", "x" * 300], "AGS-0100", 2),
        (["ask", "--lake", "x" * 300, "how many?"], "AGS-0100", 2),
        (["models", "pull", "no-such-model"], "AGS-04", 1),
    ],
)
def test_bad_input_is_named_with_a_code_and_a_remedy(
    arguments: list[str], code: str, exit_code: int, run: Run, lake: Path
) -> None:
    done = run(*arguments, "--json")
    assert done.returncode == exit_code, done.stderr
    error = error_of(done)
    assert error["code"].startswith(code)
    assert error["message"] and error["remedy"]
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_an_unknown_setting_is_refused(run: Run) -> None:
    done = run("config", "show", "--json", AGENTSYS_MODEL__NMAE="x")
    assert done.returncode == 2
    assert "model.nmae" in error_of(done)["message"]


def test_config_show_names_sources_and_hides_secrets(run: Run) -> None:
    shown = json.loads(run("config", "show", "--json", AGENTSYS_MODEL__API_KEY="secret").stdout)
    assert shown["model.api_key"] == {"value": "(hidden)", "source": "environment"}
    assert shown["lake.query_rows"] == {"value": 1000, "source": "default"}


def test_config_show_writes_tables_and_sets_as_json(run: Run, tmp_path: Path) -> None:
    (tmp_path / "agentsys.toml").write_text(
        "[models.big]\nspec = 'http://127.0.0.1:1/v1#m'\napi_key = 'PELICAN'\n"
        "[tools]\nbuiltin = ['fetch']\n[mcp.servers.x]\ncommand = ['x']\nenv = ['HOME']\n"
    )
    done = run("config", "show", "--json")
    shown = json.loads(done.stdout)
    assert shown["models"]["value"]["big"]["spec"] == "http://127.0.0.1:1/v1#m"
    assert shown["tools.builtin"]["value"] == ["fetch"]
    assert shown["mcp.servers"]["value"]["x"]["env"] == ["HOME"]
    assert "PELICAN" not in done.stdout


def test_credentials_within_addresses_are_not_shown(run: Run, tmp_path: Path) -> None:
    (tmp_path / "agentsys.toml").write_text(
        "[model]\nname = 'https://u:PELICAN@host/v1#m'\nreplicas = ['https://u:PEL@ICAN@host/v1#n']\n"
        "[models.big]\nspec = 'http://PELICAN@host/v1#m'\n"
        "[mcp.servers.x]\ncommand = ['x', '--dsn=postgresql://u:PELICAN@host/db?mail=a@b']\n"
    )
    done = run("config", "show", "--json")
    shown = json.loads(done.stdout)
    assert shown["model.name"]["value"] == "https://(hidden)@host/v1#m"
    assert shown["model.replicas"]["value"] == ["https://(hidden)@host/v1#n"]
    assert shown["models"]["value"]["big"]["spec"] == "http://(hidden)@host/v1#m"
    dsn = "--dsn=postgresql://(hidden)@host/db?mail=a@b"
    assert shown["mcp.servers"]["value"]["x"]["command"] == ["x", dsn]
    assert "https://(hidden)@host/v1#m" in run("doctor", "--json").stdout
    for words in (("config", "show", "--json"), ("config", "show"), ("doctor", "--json")):
        assert "ICAN" not in run(*words).stdout
    refused = run("config", "show", "--json", AGENTSYS_MODEL__DEVICE="http://u:PELICAN@host")
    assert refused.returncode == 2 and "PELICAN" not in refused.stdout


def test_an_empty_lake_is_an_error(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert error_of(run("ask", "--lake", "empty", "how many?", "--json"))["code"].startswith("AGS-05")


DENIED = """
from agentsys import Label, Workflow


async def main(context, _):
    context.put("notes", "a", "x", type="note", label=context.label.join(Label.trusted("web:elsewhere")))


workflow = Workflow("denied", main)
"""


def test_a_denied_run_exits_with_a_code_of_its_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "denied.py").write_text(DENIED)
    done = run("run", "denied.py", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["failure"]["code"].startswith("AGS-03")
    (tmp_path / "failing.py").write_text(WORKFLOW.replace("2 * number", "number / 0"))
    assert run("run", "failing.py", "--input", "20").returncode == 1


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("x = 1\nimport nosuchmodule", "named 'nosuchmodule' (line 2)"),
        ("x = 1\ny = (", "line 2"),
        (WORKFLOW.replace('"arithmetic"', '"doubler"'), "both named 'doubler'"),
        ("", "bad.py defines no workflow"),
        (WORKFLOW + "other = Workflow('other', main)", "bad.py defines 2 workflows (arithmetic, other)"),
    ],
)
def test_a_file_that_cannot_run_is_a_usage_error(run: Run, tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "bad.py").write_text(text)
    done = run("run", "bad.py", "--json")
    assert done.returncode == 2, done.stderr
    assert cause in error_of(done)["message"]


def test_a_lake_names_unreadable_data_and_counts_what_is_no_data(run: Run, lake: Path) -> None:
    for number in range(9):
        (lake / f"module{number}.py").write_text("x = 1")
    (lake / "broken.parquet").write_bytes(b"PAR1 this is no parquet file")
    done = run("ask", "--lake", "lake", "zzz?")
    assert (done.returncode, "skipped broken.parquet" in done.stderr, "module3" in done.stderr) == (1, True, False)
    assert "skipped 9 files that are no data (.py)" in done.stderr


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (None, "questions.json: No such file or directory"),
        ("{", "questions.json is no JSON: Expecting property name"),
        ("[1]", "questions.json holds no list of questions"),
        ('[{"text": "x"}]', "questions.json holds no list of questions"),
        ('{"question": "x"}', "questions.json holds no list of questions"),
    ],
)
def test_a_file_that_holds_no_questions_is_told_without_python(
    text: str | None, cause: str, run: Run, lake: Path, tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "questions.json").write_text(text)
    message = error_of(run("ask", "--lake", "lake", "--questions", "questions.json", "--json"))["message"]
    assert message.startswith(cause) and "Error" not in message


def test_an_empty_question_is_a_usage_error(run: Run, lake: Path) -> None:
    assert run("ask", "--lake", "lake", " ").returncode == 2
    assert run("ask", "--lake", "lake", "--resume", "latest").returncode != 0


def test_a_file_that_ends_the_program_is_no_run_that_is_done(run: Run, tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text("import sys\n\nsys.exit()\n")
    done = run("run", "ends.py")
    assert done.returncode == 2 and "SystemExit" in done.stderr and "line 3" in done.stderr


def test_the_readme_s_own_tool_runs(run: Run, tmp_path: Path) -> None:
    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    blocks = (block.split("```")[0].partition("\n")[2] for block in readme.split("```python")[1:])
    (program,) = (block for block in blocks if "@tool" in block)
    (tmp_path / "keep.py").write_text(program)
    done = run("run", "keep.py", "--input", '"hello"')
    assert (done.returncode, done.stdout) == (0, "saved 5 characters\n"), done.stderr
    assert (tmp_path / "note.txt").read_text() == "hello"


def test_a_failed_round_says_why_its_agents_failed(run: Run, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(WORKFLOW.replace("2 * number", "number / 0"))
    assert (
        "doubler crashed: AGS-0630 double failed: ZeroDivisionError" in run("run", "failing.py", "--input", "1").stderr
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """A question that the model answered, and commands in the folder where it was asked."""

    run: Run
    done: subprocess.CompletedProcess[str]

    @property
    def run_id(self) -> str:
        return self.done.stdout.split("run ")[-1].strip()


QUESTION = "What is the highest number [of] people of a town?"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """Asked once, of a lake in which most files are broken: a model on a slow machine takes half a minute."""
    folder = tmp_path_factory.mktemp("asked")
    lake = towns(folder)
    (lake / "broken.parquet").write_bytes(b"PAR1 this is no parquet file")
    (lake / "picture.csv").write_bytes(bytes(range(256)) * 64)
    (lake / "nothing.csv").write_text("")
    run = commands_in(folder)
    done = run("ask", "--lake", "lake", QUESTION)
    assert done.returncode == 0, done.stderr
    return Asked(run, done)


@pytest.mark.model
def test_an_answer_for_people_has_label_files_and_columns(asked: Asked) -> None:
    for part in (QUESTION, "= 2800000", "towns.csv", "columns people", "influenced by file:towns.csv, user:owner"):
        assert part in asked.done.stdout
    for part in ("files.towns volunteers", "round closed: answered", "tokens/s", "call run_query allowed"):
        assert part in asked.done.stderr
    assert "135 million parameters" in asked.done.stderr


@pytest.mark.model
def test_broken_files_are_named_and_the_rest_answers(asked: Asked) -> None:
    for name in ("broken.parquet", "picture.csv", "nothing.csv"):
        assert f"skipped {name}: AGS-05" in asked.done.stderr
    (answer,) = json.loads(asked.run("ask", "--resume", asked.run_id, "--json").stdout)
    assert answer["answer"] == 2800000
    assert [source["files"] for source in answer["sources"]] == [["towns.csv"]]


@pytest.mark.model
def test_a_resumed_question_finds_its_lake_and_prints_its_answer(asked: Asked) -> None:
    resumed = asked.run("ask", "--resume", asked.run_id)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == asked.done.stdout


def test_a_second_process_writes_the_board_beside_the_first(run: Run, tmp_path: Path) -> None:
    (tmp_path / "arithmetic.py").write_text(WORKFLOW)
    with Board.open(tmp_path / "state" / "board.db") as board:
        assert run("run", "arithmetic.py", "--input", "20").returncode == 0
        assert run("board", "log").returncode == 0
        assert {commit.principal for commit in board.log()} >= {"user:owner"}
    assert run("run", "arithmetic.py", "--input", "20").returncode == 0


def test_doctor_reports_each_part(run: Run) -> None:
    done = run("doctor", "--json")
    subjects = {finding["subject"] for finding in json.loads(done.stdout)}
    assert {"python", "subpackages", "torch", "native kernels", "model", "board", "queries", "disk"} <= subjects


def test_doctor_says_that_no_query_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_queries(Settings()).state == "ok"
    monkeypatch.setattr(sandbox, "_WORKER", ("-c", "raise SystemExit(3)"))
    found = check_queries(Settings())
    assert found.state == "fault" and "status 3" in found.detail


MODELS = """
[model]
name = "vllm:smollm2-135m"
replicas = ["http://127.0.0.1:9/v1#m"]

[models.large]
spec = "vllm:some/model-of-nobody"
"""


def finding(run: Run, subject: str, **changes: str) -> dict[str, str]:
    findings = json.loads(run("doctor", "--json", **changes).stdout)
    return next(one for one in findings if one["subject"] == subject)


def test_doctor_and_pull_know_a_model_behind_the_name_of_its_engine(run: Run, tmp_path: Path) -> None:
    (tmp_path / "agentsys.toml").write_text(MODELS)
    scripted = tmp_path / "scripted"
    scripted.mkdir()
    (scripted / "vllm.py").write_text("__version__ = '0.32.0'")  # all that doctor asks of vLLM
    installed = {"PYTHONPATH": os.pathsep.join([str(scripted), *sys.path])}
    models = tmp_path / "models"
    found = finding(run, "model", AGENTSYS_MODELS_DIR=str(models), **installed)
    assert found["state"] == "warning" and "vllm:smollm2-135m, vllm:some/model-of-nobody are not" in found["detail"]
    for name in ("smollm2-135m", "other"):
        (models / name).mkdir(parents=True)
        (models / name / "agentsys.json").write_text('{"source": "x", "sha256": "0"}')
    (tmp_path / "agentsys.toml").write_text(MODELS.replace("some/model-of-nobody", "other"))
    found = finding(run, "model", AGENTSYS_MODELS_DIR=str(models), **installed)
    assert found["state"] == "ok" and "remote; not contacted" in found["detail"]
    assert run("models", "pull", AGENTSYS_MODELS_DIR=str(models)).stdout.strip().endswith(str(models / "smollm2-135m"))
    (scripted / "vllm.py").write_text("raise ImportError('no wheel for this machine')")
    found = finding(run, "model", AGENTSYS_MODELS_DIR=str(models), **installed)
    assert found["state"] == "fault" and "no wheel" in found["detail"]


def completions(*words: str) -> set[str]:
    """What Tab offers for the last of ``words``, by the protocol of the fish shell, which does not split at a colon."""
    environment = {
        "_AGENTSYS_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_ARGS": " ".join(["agentsys", *words]),
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    offered = CliRunner().invoke(cli, [], prog_name="agentsys", env=environment).stdout.splitlines()
    return {line.split("\t")[0] for line in offered}


def test_tab_completes_models_with_and_without_the_name_of_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTSYS_MODELS_DIR", str(tmp_path / "models"))
    (tmp_path / "agentsys.toml").write_text(MODELS)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "agentsys.json").write_text('{"source": "x", "sha256": "0"}')
    assert completions("models", "pull", "sm") == {"smollm2-135m"}
    assert completions("models", "pull", "some") == {"some/model-of-nobody"}
    assert completions("models", "load", "l") == {"large"}
    for command in (
        ["run", "x.py"],
        ["ask"],
        ["work", "x.py"],
        ["console"],
        ["serve"],
        ["models", "serve"],
        ["models", "launch"],
    ):
        assert completions(*command, "--model", "vllm:s") >= {"vllm:smollm2-135m"}, command
        assert completions(*command, "--model", "m") == {"mine"}
    (tmp_path / "agentsys.toml").write_text("broken")
    assert completions("models", "pull", "") == {"smollm2-135m"}


def test_a_server_tells_how_far_the_pull_of_its_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetching(source: str, *, progress: ProgressListener, directory: Path) -> Path:
        for stage in ("resolve", "download", "download", "convert", "ready"):
            progress(PullProgress(stage, 1, 2))
        raise UnknownModelError(f"{source} has been told of")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTSYS_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setattr(pull_module, "pull", fetching)
    told = CliRunner().invoke(cli, ["models", "serve", "--port", "0"]).stderr
    stages = [line for line in told.splitlines() if line.startswith("smollm2-135m: ")]
    assert stages == ["smollm2-135m: downloading", "smollm2-135m: converting"] and "has been told of" in told


PULLING = """
import time

from agentsys.cli.app import main
from agentsys.serving import models
from agentsys.serving.weights.progress import PullProgress


def pull(source, *, progress, directory):
    while True:
        progress(PullProgress("download", 1, 2))
        time.sleep(0.01)


models.pull = pull
main()
"""


@pytest.mark.parametrize("words", [["run", "greet.py"], ["ask", "--lake", "lake", "Which is the highest town?"]])
def test_an_interrupt_ends_the_pull_of_a_model(words: list[str], tmp_path: Path, lake: Path) -> None:
    (tmp_path / "greet.py").write_text(GREETING)
    environment = os.environ | {"AGENTSYS_BOARD__PATH": str(tmp_path / "board.db"), "AGENTSYS_MODELS_DIR": "models"}
    command = [sys.executable, "-c", PULLING, *words]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hearing_interrupts,
    ) as process:
        assert process.stderr is not None
        while "the model: downloading" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=20) == 130
        finally:
            process.kill()
        assert "interrupted" in process.stderr.read()


@pytest.mark.parametrize("words", [["run", "greet.py"], ["ask", "--lake", "lake", "Which is the highest town?"]])
def test_a_run_tells_how_far_the_pull_of_its_model_is(
    words: list[str], tmp_path: Path, lake: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetching(source: str, *, progress: ProgressListener, directory: Path) -> Path:
        for stage in ("resolve", "download", "download", "convert", "ready"):
            progress(PullProgress(stage, 1, 2))
        raise UnknownModelError(f"{source} has been told of")

    (tmp_path / "greet.py").write_text(GREETING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AGENTSYS_MODELS_DIR", str(tmp_path / "models"))
    monkeypatch.setenv("AGENTSYS_BOARD__PATH", str(tmp_path / "board.db"))
    monkeypatch.setattr(serving_models, "pull", fetching)
    told = CliRunner().invoke(cli, words).stderr
    stages = [line for line in told.splitlines() if line.startswith("the model: ")]
    assert stages == ["the model: downloading", "the model: converting"] and "has been told of" in told


def test_the_recorded_runs_that_the_console_opens_with_replay(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("vega_datasets")
    recorded = tmp_path / "demo.db"
    recorded.write_bytes((Path(agentsys.ui.__file__).parent / "recorded" / "demo.db").read_bytes())
    with Board.open_read_only(recorded) as board:
        runs = [record.run for record in list_runs(board)]
    assert runs
    for each in runs:
        done = run("replay", each, "--board", str(recorded), "--lake", "package:vega_datasets/_data", "--json")
        assert done.returncode == 0, done.stdout


def test_board_verify_names_the_altered_commit(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "state" / "board.db"
    with Board.open(path) as board:
        for number in range(3):
            tx = board.begin("user:ann")
            tx.put("notes", f"k{number}", number, type="note")
            board.commit(tx)
    assert json.loads(run("board", "verify", "--json").stdout) == {"commits": 3, "horizon": 0, "erased": 0}
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entry_version SET value = '7' WHERE key = 'k1'")
    connection.close()
    altered = run("board", "verify")
    assert altered.returncode == 1 and "AGS-0218" in altered.stderr and "commit 2 of 3" in altered.stderr


def test_an_export_to_stdout_is_the_same_in_every_encoding(tmp_path: Path) -> None:
    path, file = tmp_path / "board.db", tmp_path / "piped.jsonl"
    with Board.open(path) as board:
        tx = board.begin("ann")
        tx.put("t", "k", "\u00fcber \u20ac", type="item")
        board.commit(tx)
    command = [sys.executable, "-c", "from agentsys.cli.app import main; main()", "board", "export", "-", "--board"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    exported = subprocess.run([*command, str(path)], env=environment, capture_output=True, check=False)
    assert exported.returncode == 0, exported.stderr
    file.write_bytes(exported.stdout)
    checked = CliRunner().invoke(cli, ["board", "import", str(file), "--check", "--json"])
    assert json.loads(checked.stdout)["commits"] == 1
