"""Planted escapes are caught by every set of walls that claims to hold them, and succeed where there is none."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agentsys.containment import process
from agentsys.containment.limits import MIB, Grants, Limits
from agentsys.containment.process import ContainmentFailed, Outcome, run_contained
from agentsys.containment.trial import escapes
from agentsys.containment.walls import STRONG, ContainmentUnavailable, Walls, walls_here

HERE = walls_here()
ALL = [
    pytest.param(HERE, id="all"),
    pytest.param(replace(HERE, bubblewrap=""), id="landlock"),
    pytest.param(replace(HERE, landlock=0), id="bubblewrap"),
]
NONE = Walls(limits=True)
QUICK = Limits(seconds=20, memory_bytes=256 * MIB, output_bytes=100_000, file_bytes=MIB, disk_bytes=8 * MIB)


def contained(code: str, walls: Walls = HERE, limits: Limits = QUICK, **grants: object) -> Outcome:
    granted = Grants(**grants)  # type: ignore[arg-type]
    held = STRONG if walls.held >= STRONG else walls.held
    return run_contained([sys.executable, "-I", "-c", code], limits=limits, grants=granted, walls=walls, require=held)


def needs(walls: Walls, *wanted: str) -> None:
    if not walls.held >= set(wanted):
        pytest.skip(f"this machine has no wall that holds {', '.join(wanted)}")


@dataclass(frozen=True)
class World:
    """What lies outside: a secret file, a folder that anybody may write, a server, a process."""

    secret: Path
    folder: Path
    port: int

    @property
    def names(self) -> dict[str, object]:
        return {"secret": str(self.secret), "folder": str(self.folder), "port": self.port, "pid": os.getpid()}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    secret = tmp_path / "secret.txt"
    secret.write_text("the crown jewels")
    folder = tmp_path / "open"
    folder.mkdir(mode=0o777)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield World(secret, folder, server.getsockname()[1])


ESCAPES = {
    "reads a file": ("files", "print(open({secret!r}).read())"),
    "lists a folder": ("files", "import os; print('escaped', os.listdir({folder!r}))"),
    "writes a file": ("files", "open({folder!r} + '/f', 'w').write('x'); print('escaped')"),
    "writes a file through a link": (
        "files",
        "import os; os.symlink({secret!r}, 'link'); open('link', 'a').write('x'); print('escaped')",
    ),
    "cuts a file short": ("files", "import os; os.truncate({secret!r}, 0); print('escaped')"),
    "deletes a file": ("files", "import os; os.unlink({secret!r}); print('escaped')"),
    "renames into the work folder": ("files", "import os; os.rename({secret!r}, 'mine'); print('escaped')"),
    "links into the work folder": ("files", "import os; os.link({secret!r}, 'mine'); print(open('mine').read())"),
    "changes a file's mode": ("processes", "import os; os.chmod({secret!r}, 0o777); print('escaped')"),
    "changes a file's times": ("processes", "import os; os.utime({secret!r}, (1, 1)); print('escaped')"),
    "makes a socket": ("network", "import socket; socket.create_connection(('127.0.0.1', {port})); print('escaped')"),
    "sends a datagram": (
        "network",
        "import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {port})); print('escaped')",
    ),
    "forks": ("processes", "import os; os.fork() or os._exit(0); os.wait(); print('escaped')"),
    "starts a program": (
        "processes",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', '']); print('escaped')",
    ),
    "signals its starter": ("processes", "import os; os.kill({pid}, 0); print('escaped')"),
    "has the kernel signal its starter": (
        "processes",
        "import fcntl, os; fcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, {pid}); print('escaped')",
    ),
    "moves its starter to other processors": (
        "processes",
        "import os; os.sched_setaffinity({pid}, os.sched_getaffinity({pid})); print('escaped')",
    ),
    "changes how its starter is scheduled": (
        "processes",
        "import os; os.sched_setscheduler({pid}, os.SCHED_OTHER, os.sched_param(0)); print('escaped')",
    ),
    "keeps memory in no file": (
        "processes",
        "import os; f = os.memfd_create('m'); os.write(f, b'x'); print('escaped')",
    ),
    "makes a namespace": (
        "processes",
        "import ctypes; print('escaped') if ctypes.CDLL(None).unshare(0x10000000) == 0 else None",
    ),
    "leaks a variable": ("environment", "import os; assert 'PLANTED' in os.environ; print('escaped')"),
    "reads its starter's variables": (
        "files",
        "print('escaped', open('/proc/{pid}/environ').read())",
    ),
}


@pytest.mark.parametrize("walls", ALL)
@pytest.mark.parametrize("name", ESCAPES)
def test_an_escape_is_caught(name: str, walls: Walls, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED", "variable")
    held, code = ESCAPES[name]
    needs(walls, held)
    before = world.secret.stat()
    outcome = contained(code.format(**world.names), walls)
    assert b"escaped" not in outcome.output and b"jewels" not in outcome.output, outcome
    assert outcome.status != 0 or not outcome.output
    after = world.secret.stat()
    assert world.secret.read_text() == "the crown jewels" and not list(world.folder.iterdir())
    assert (before.st_mode, before.st_mtime_ns) == (after.st_mode, after.st_mtime_ns)


@pytest.mark.parametrize("name", [name for name in ESCAPES if name != "leaks a variable"])
def test_the_same_escape_succeeds_without_walls(name: str, world: World) -> None:
    if name == "makes a namespace" and os.getuid() != 0:
        pytest.skip("only root makes one of these namespaces")
    if "memory" in name and not hasattr(os, "memfd_create"):
        pytest.skip("no such call here")
    outcome = contained(ESCAPES[name][1].format(**world.names), NONE)
    assert b"escaped" in outcome.output or b"jewels" in outcome.output, outcome


def test_a_granted_variable_is_seen() -> None:
    assert contained("import os; print(os.environ['GIVEN'])", NONE, environment={"GIVEN": "this"}).output == b"this\n"


@pytest.mark.parametrize("walls", ALL)
def test_without_limits_of_their_own_walls_hold_bombs(walls: Walls) -> None:
    needs(walls, "memory")
    for bomb in ("x = b'x' * (1 << 30)", "x = []\nwhile True: x.append(b'x' * (1 << 20))"):
        outcome = contained(bomb, walls)
        assert outcome.status != 0 and b"MemoryError" in outcome.errors
    grown = contained("with open('f', 'wb') as f:\n while True: f.write(b'x' * 100_000)", walls)
    assert grown.status != 0 and (b"File too large" in grown.errors or grown.status == -25)


def test_a_fork_bomb_does_not_go_off() -> None:
    needs(HERE, "processes")
    outcome = contained("import os\nfor _ in range(10**6):\n os.fork()")
    assert outcome.status == 1 and b"PermissionError" in outcome.errors


def test_memory_without_a_limit_is_taken() -> None:
    unbound = replace(QUICK, memory_bytes=None)
    assert contained("x = b'x' * (300 << 20); print(len(x))", NONE, unbound).output.strip() == str(300 << 20).encode()


@pytest.mark.parametrize("walls", [*ALL, pytest.param(NONE, id="none")])
def test_time_computing_output_and_disk_end_a_program(walls: Walls) -> None:
    assert contained("import time; time.sleep(60)", walls, replace(QUICK, seconds=0.3)).stopped == "time"
    assert contained("while True: pass", walls, replace(QUICK, cpu_seconds=0.5)).stopped == "computing"
    printed = contained("while True: print('x' * 1000)", walls)
    assert printed.stopped == "output" and len(printed.output) <= QUICK.output_bytes
    said = contained("import sys\nwhile True: sys.stderr.write('x' * 1000)", walls)
    assert said.stopped == "output" and len(said.errors) <= QUICK.output_bytes
    wrote = contained(
        "import time\nfor n in range(10**6):\n open(f'f{n}', 'wb').write(b'x' * 10**6)\n time.sleep(0.01)", walls
    )
    assert wrote.stopped == "disk"


def test_more_than_may_be_printed_is_told_of_though_the_program_ends_first(monkeypatch: pytest.MonkeyPatch) -> None:
    read = process._Stream._read

    def late(stream: process._Stream) -> None:
        stream._on_full.__self__.wait()
        read(stream)

    monkeypatch.setattr(process._Stream, "_read", late)
    printed = contained("print('x' * 1000)", limits=replace(QUICK, output_bytes=10))
    assert (printed.output, printed.stopped) == (b"x" * 10, "output")


def test_a_program_within_its_limits_is_left_alone() -> None:
    outcome = contained("print(input(), end='')", NONE)
    assert outcome.stopped == "" and outcome.status == 1, "there is nothing to read"
    done = run_contained([sys.executable, "-I", "-c", "print(input())"], input=b"hello\n", require=())
    assert (done.output, done.status, done.stopped) == (b"hello\n", 0, "")


@pytest.mark.parametrize("walls", ALL)
def test_what_is_granted_can_be_done(walls: Walls, tmp_path: Path) -> None:
    needs(walls, "files")
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in" / "a.txt").write_text("content")
    code = f"open({str(tmp_path / 'out' / 'b')!r}, 'w').write(open({str(tmp_path / 'in' / 'a.txt')!r}).read())"
    done = contained(code, walls, readable=(tmp_path / "in",), writable=(tmp_path / "out",))
    assert done.status == 0, done.errors
    assert (tmp_path / "out" / "b").read_text() == "content"
    refused = contained(f"open({str(tmp_path / 'in' / 'c')!r}, 'w')", walls, readable=(tmp_path / "in",))
    assert refused.status == 1 and not (tmp_path / "in" / "c").exists()
    threads = "import threading; t = threading.Thread(target=print, args=('run',)); t.start(); t.join()"
    assert contained(threads, walls).output == b"run\n"


@pytest.mark.parametrize("walls", ALL)
def test_a_granted_network_is_reached(walls: Walls, world: World) -> None:
    needs(walls, "network")
    code = f"import socket; socket.create_connection(('127.0.0.1', {world.port})); print('reached')"
    assert contained(code, walls, network=True).output == b"reached\n"


def test_the_work_folder_is_new_and_goes() -> None:
    code = "import os; open('left', 'w'); print(os.getcwd(), os.listdir('.'))"
    outcome = contained(code)
    folder, _, listed = outcome.output.decode().partition(" ")
    assert listed.strip() == "['left']" and not Path(folder).exists()


def test_a_folder_that_cannot_be_listed_counts_as_without_bound_and_goes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = contained("import os; os.mkdir('d', 0o700); open('d/f', 'w'); os.mkdir('e', 0); print(os.getcwd())")
    assert outcome.status == 0 and not Path(outcome.output.decode().strip()).exists()
    (tmp_path / "file").write_text("x" * 5000)
    assert process._size(tmp_path) == 5000
    (tmp_path / "dark").mkdir()
    scandir = os.scandir

    def refusing(path: str) -> object:
        if str(path).endswith("dark"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert process._size(tmp_path) == float("inf")


def test_what_outlives_a_program_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "DRAIN_SECONDS", 0.2)
    code = (
        "import os, time\nprint('said', flush=True)\nif os.fork() == 0:\n os.setsid()\n"
        "end = time.time() + 5\nwhile time.time() < end and not os.path.exists({stop!r}): time.sleep(0.01)"
    )
    with tempfile.TemporaryDirectory() as folder:
        stop = Path(folder) / "stop"
        child = code.format(stop=str(stop)).replace("\nend", "\n end").replace("\nwhile", "\n while")
        assert contained(child, NONE).output == b"said\n"
        stop.touch()


def test_no_file_of_the_caller_stays_open() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    try:
        code = f"import os; os.write({writing}, b'escaped')"
        assert contained(code).status == 1
        os.set_blocking(reading, False)
        with pytest.raises(BlockingIOError):
            os.read(reading, 10)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize("walls", ALL)
def test_the_trial_of_the_doctor_finds_what_is_not_held(walls: Walls) -> None:
    assert escapes(walls).isdisjoint(walls.held)
    assert escapes(NONE) >= {"files", "network", "processes", "names"}
    assert "memory" in escapes(Walls()) or sys.platform != "linux"


def test_weak_walls_are_refused_and_say_what_is_missing() -> None:
    with pytest.raises(ContainmentUnavailable, match="reads and writes no file") as refusal:
        run_contained([sys.executable, "-c", ""], walls=NONE)
    assert "weak" in refusal.value.remedy
    assert NONE.held == {"time", "output", "environment", "memory"}
    assert Walls().held == {"time", "output", "environment"}
    assert str(Walls()) == "a deadline alone"


def test_a_wall_that_does_not_go_up_keeps_the_program_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    needs(HERE, "processes")
    monkeypatch.setattr("agentsys.containment.seccomp.syscall_filter", lambda *, network: b"\xff" * 8)
    with pytest.raises(ContainmentFailed, match="seccomp"):
        contained("print('ran')")
