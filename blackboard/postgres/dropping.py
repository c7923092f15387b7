"""Dropping a board in PostgreSQL: the schema that holds it."""

from contextlib import closing
from typing import Final

from sqlalchemy import func, select, text

from agentsys.blackboard.lock import BoardBusy
from agentsys.blackboard.postgres.address import Address
from agentsys.blackboard.postgres.connections import PostgresDatabase
from agentsys.blackboard.postgres.lease import is_lasting
from agentsys.blackboard.postgres.storage import open_reader
from agentsys.blackboard.reads import STATE
from agentsys.blackboard.schema import SESSIONS, BoardModel, SharedModel
from agentsys.blackboard.storage import BoardState

LOCK_SECONDS: Final = 10
"""How long transactions of others may keep a board from being dropped."""


def drop_schema(location: str) -> BoardState:
    """Drop the board at ``location``; return how far it had come. Raises as ``dropping.drop_board`` does."""
    address = Address.parse(location)
    tables = [f'"{name}"' for model in (BoardModel, SharedModel) for name in model.metadata.tables]
    with closing(PostgresDatabase(address)) as database:
        open_reader(database)
        with database.translated_errors(), database.writers.begin() as connection:
            connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'"))
            # All at once: who opens the board now waits, counts as nobody, and finds it gone.
            connection.execute(text(f"LOCK TABLE {', '.join(tables)} IN ACCESS EXCLUSIVE MODE"))
            openings = connection.execute(select(func.count()).where(is_lasting(SESSIONS))).scalar_one()
            if openings:
                raise BoardBusy(
                    f"{database.name} is open for writing, or was left so moments ago (openings: {openings})."
                )
            state = BoardState(*connection.execute(STATE).one())
            connection.execute(text(f"DROP SCHEMA {address.schema} CASCADE"))
    return state
