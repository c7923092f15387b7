"""The checkpoint savers that are compared: ours and LangGraph's, over SQLite and PostgreSQL, equally durable."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from langgraph.checkpoint.base import BaseCheckpointSaver
from sqlalchemy import make_url

from agentsys.blackboard.board import Board
from agentsys.errors import ConfigurationError
from agentsys.langgraph.saver import BlackboardSaver

Saver: TypeAlias = BaseCheckpointSaver[Any]


@dataclass(frozen=True, slots=True)
class Arm:
    """One saver over one database. ``place`` names where nothing is yet; ``size`` is what lies there, in bytes."""

    name: str
    opened: Callable[[str], AbstractAsyncContextManager[Saver]]
    place: Callable[[], str]
    size: Callable[[str], int]


def steps_a_second(
    arm: Arm, threads: int, steps: int, walk: Callable[[Saver, str, int], Coroutine[Any, Any, None]]
) -> Callable[[], float]:
    """Return a measurement: steps a second where ``threads`` threads at once ``walk`` so many ``steps`` each."""

    async def run() -> float:
        async with arm.opened(arm.place()) as saver:
            # The first statements are compiled once in a process's life.
            await walk(saver, "warm-up", 2)
            start = time.perf_counter()
            await asyncio.gather(*(walk(saver, f"thread {number}", steps) for number in range(threads)))
            return threads * steps / (time.perf_counter() - start)

    return lambda: asyncio.run(run())


def sqlite_arms(folder: Path) -> list[Arm]:
    """Return ours and LangGraph's over SQLite, files in ``folder``, with ``synchronous=FULL``."""
    numbers = itertools.count()

    def place() -> str:
        return str(folder / f"{next(numbers)}.db")

    return [
        Arm("ours, SQLite", ours, place, _file_size),
        Arm("AsyncSqliteSaver", async_sqlite, place, _file_size),
    ]


def postgres_arms(server: str) -> list[Arm]:
    """Return ours and LangGraph's on the PostgreSQL ``server`` at a URL, each time in a new database."""
    numbers = itertools.count()

    def place() -> str:
        import psycopg

        name = f"agentsys_bench_{next(numbers)}"
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
            connection.execute(f"CREATE DATABASE {name}".encode())
        return make_url(server).set(database=name).render_as_string(hide_password=False)

    return [
        Arm("ours, PostgreSQL", ours, place, _database_size),
        Arm("AsyncPostgresSaver", async_postgres, place, _database_size),
    ]


@asynccontextmanager
async def ours(place: str) -> AsyncIterator[Saver]:
    """Give our saver over a new board."""
    with Board.open(place) as board:
        yield BlackboardSaver(board)


@asynccontextmanager
async def async_sqlite(place: str) -> AsyncIterator[Saver]:
    """Give LangGraph's saver over a new file, durable as the board is."""
    try:
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
    except ImportError as error:
        raise _missing("langgraph-checkpoint-sqlite") from error
    async with AsyncSqliteSaver.from_conn_string(place) as saver:
        await saver.setup()
        await saver.conn.execute("PRAGMA synchronous=FULL")
        yield saver


@asynccontextmanager
async def async_postgres(place: str) -> AsyncIterator[Saver]:
    """Give LangGraph's saver over a new database; the server's commits wait for the disk."""
    try:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
    except ImportError as error:
        raise _missing("langgraph-checkpoint-postgres") from error
    async with AsyncPostgresSaver.from_conn_string(place) as saver:
        await saver.setup()
        yield saver


def _missing(package: str) -> ConfigurationError:
    return ConfigurationError("The peer is not installed.", remedy=f"pip install {package} (the extra `dev` has it).")


def _file_size(place: str) -> int:
    path = Path(place)
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def _database_size(place: str) -> int:
    import psycopg

    tables = (
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c JOIN pg_namespace n"
        " ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND n.nspname NOT IN ('pg_catalog', 'information_schema')"
    )
    with psycopg.connect(place) as connection:
        row = connection.execute(tables).fetchone()
    assert row is not None
    return int(row[0])
