"""Model servers as processes of their own, on this machine or on the machines of a Ray cluster."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

from agentsys.errors import ServingError

_COMMAND = (sys.executable, "-c", "from agentsys.cli.app import main; main()", "models", "serve", "--json")
_STOP_SECONDS = 40.0
_CONNECT_SECONDS = 10.0


class LaunchError(ServingError):
    """A model server ended before it served."""

    code = "AGS-0466"
    remedy = "Its own messages are above; try the same with `agentsys models serve`."


class RayMissingError(ServingError):
    """Ray is not installed, or its cluster cannot be reached."""

    code = "AGS-0467"
    remedy = "pip install 'agentsys-runtime[ray]', and start the cluster with `ray start --head`."


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """What a model server serves and where; ``port`` 0 takes a free one, ``environment`` is beside this process's."""

    model: str | None = None
    host: str = "127.0.0.1"
    port: int = 0
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        """The command that serves it."""
        named = [] if self.model is None else ["--model", self.model]
        return [*_COMMAND, "--host", self.host, "--port", str(self.port), *named]


class ServerProcess:
    """One ``agentsys models serve``. Not thread-safe."""

    def __init__(self, spec: ServerSpec) -> None:
        self.spec = spec
        self.url = ""
        self._process: subprocess.Popen[str] | None = None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process, 0 before it was started."""
        return 0 if self._process is None else self._process.pid

    def start(self) -> str:
        """Start the process and return its URL once it serves; blocks. Raises :class:`LaunchError`."""
        self._close_pipe()
        environment = {**os.environ, **self.spec.environment}
        # A terminal's signals go to its whole foreground group, and the second signal ends a server at once.
        self._process = subprocess.Popen(
            self.spec.command, env=environment, stdout=subprocess.PIPE, text=True, process_group=0
        )
        assert self._process.stdout is not None
        told = ""
        for line in self._process.stdout:
            told += line
            try:
                self.url = str(json.loads(told)["url"])
            except ValueError:
                continue  # the object goes on in the next line
            # Whoever knows this address finds it there again after a repair.
            self.spec = replace(self.spec, port=urlsplit(self.url).port or self.spec.port)
            return self.url
        code = self._process.wait()
        raise LaunchError(f"a server of {self.spec.model or 'the default model'} ended with status {code}.")

    def stop(self) -> None:
        """End the process, which finishes its answers; kill it if that takes too long."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close_pipe()

    def _close_pipe(self) -> None:
        if self._process is not None and self._process.stdout is not None:
            self._process.stdout.close()


class LocalFleet:
    """Model servers on this machine, started again when they end."""

    def __init__(self, specs: Sequence[ServerSpec], *, pause: float = 1.0) -> None:
        """``pause`` is the least number of seconds between two starts of one server."""
        self.processes = [ServerProcess(spec) for spec in specs]
        self._pause = pause
        self._started = [0.0] * len(specs)

    def start(self) -> list[str]:
        """Start all and return their URLs. Raises :class:`LaunchError`, after stopping those that had started."""
        try:
            return [self._start(number) for number in range(len(self.processes))]
        except BaseException:
            self.stop()
            raise

    def repair(self) -> list[str | LaunchError]:
        """Start again what has ended, at the same address; returns their URLs, or why one could not be started."""
        ended = [number for number, process in enumerate(self.processes) if not process.alive]
        due = [number for number in ended if time.monotonic() >= self._started[number] + self._pause]
        return [self._repaired(number) for number in due]

    def stop(self) -> None:
        """End all."""
        for process in self.processes:
            process.stop()

    def _start(self, number: int) -> str:
        self._started[number] = time.monotonic()
        return self.processes[number].start()

    def _repaired(self, number: int) -> str | LaunchError:
        try:
            return self._start(number)
        except LaunchError as error:
            return error


class RayFleet:
    """Model servers on the machines of a Ray cluster, spread over them, started again by Ray when they fail."""

    def __init__(
        self, spec: ServerSpec, count: int, *, address: str = "auto", cpus: float = 1, gpus: float = 0
    ) -> None:
        """``spec.host`` is ignored: each server listens at its machine's address in the cluster, and needs a token.

        ``cpus`` and ``gpus`` are what each is given. Raises :class:`RayMissingError`.
        """
        try:
            import ray
        except ImportError as error:
            raise RayMissingError(f"Ray cannot be imported: {error}.") from error
        self._ray: Any = ray
        try:
            _check_that_somebody_listens(address)
            ray.init(address=address, ignore_reinit_error=True, log_to_driver=True)
        except Exception as error:
            raise RayMissingError(f"the Ray cluster at {address} cannot be reached: {error}.") from error
        actor: Any = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=-1, scheduling_strategy="SPREAD")(RayServer)
        self._servers = [actor.remote(spec) for _ in range(count)]

    def start(self) -> list[str]:
        """Return the URLs of all servers once they serve; blocks. Raises :class:`LaunchError`."""
        urls: list[str] = self._ray.get([server.start.remote() for server in self._servers])
        return urls

    def repair(self) -> list[str | LaunchError]:
        """Start again what has ended; returns their URLs, or why one could not be started."""
        found = [self._repaired(server) for server in self._servers]
        return [one for one in found if one]

    def stop(self) -> None:
        """End all, and leave the cluster."""
        stopping = [server.stop.remote() for server in self._servers]
        with contextlib.suppress(self._ray.exceptions.RayActorError):  # its machine is gone
            self._ray.get(stopping)
        self._ray.shutdown()

    def _repaired(self, server: Any) -> str | LaunchError:
        try:
            url: str = self._ray.get(server.repair.remote())
            return url
        except self._ray.exceptions.RayActorError:
            return ""  # Ray is about to start it again, on a machine that is there
        except LaunchError as error:
            return error


class RayServer:
    """What runs on a machine of the cluster: one server process."""

    def __init__(self, spec: ServerSpec) -> None:
        import ray

        host = ray.util.get_node_ip_address()
        self._process = ServerProcess(ServerSpec(spec.model, host, spec.port, spec.environment))

    def start(self) -> str:
        """Start the server and return its URL."""
        return self._process.start()

    def repair(self) -> str:
        """Start the server again if it has ended, and return its URL then."""
        return "" if self._process.alive else self._process.start()

    def stop(self) -> None:
        """End the server."""
        self._process.stop()


def _check_that_somebody_listens(address: str) -> None:
    """Raise :class:`OSError` at once where Ray would go on trying for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "//" not in address:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
