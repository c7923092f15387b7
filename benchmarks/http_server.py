"""A model server in a process of its own, which also tells what it holds: tasks, memory, calls. For `bench http`."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil

MOST_BATCH = 64
KV_CACHE_MIB = 4  # so small that the first streams touch all of it, and what grows later is no cache


class ServedModel:
    """A running server. ``address`` is host and port."""

    def __init__(self, address: str) -> None:
        self.address = address

    def inside(self) -> dict[str, float]:
        """Return the tasks, resident MiB, calls held, and requests and blocks of the engine."""
        answer: dict[str, float] = httpx.get(f"http://{self.address}/inside", timeout=60).json()
        return answer


@contextmanager
def served_model(folder: Path) -> Iterator[ServedModel]:
    """Serve the model of ``folder`` in another process."""
    command = [sys.executable, "-m", "agentsys.benchmarks.http_server", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield ServedModel(json.loads(line)["address"])
        finally:
            process.terminate()
            process.wait(60)


def _serve(folder: Path) -> None:
    from agentsys.serving.client import ServingClient
    from agentsys.serving.server.app import serving_app
    from agentsys.serving.server.operation import Operation
    from agentsys.serving.server.running import DrainingServer, server_config
    from agentsys.serving.torch_engine.engine import TorchEngine

    engine = TorchEngine.load(folder, kv_cache_bytes=KV_CACHE_MIB * 2**20, max_batch=MOST_BATCH)
    operation = Operation()
    app = serving_app(ServingClient({"served": engine}, "served"), operation)

    @app.get("/inside")
    async def inside() -> dict[str, Any]:
        gc.collect()
        return {
            "tasks": len(asyncio.all_tasks()),
            "resident_mib": psutil.Process().memory_info().rss / 2**20,
            "calls": operation.admission.held,
            "engine_requests": engine.stats().running + engine.stats().waiting,
        }

    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(json.dumps({"address": f"127.0.0.1:{listener.getsockname()[1]}"}), flush=True)
    config = server_config(app, read_seconds=600.0, lifespan="off", backlog=1024)
    DrainingServer(config, operation.lifecycle).run([listener])


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
