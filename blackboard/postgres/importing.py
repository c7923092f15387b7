"""Where an import makes a board before it has the board's name, and what imports left there that were killed.

Such a schema says what it is. Whoever makes it holds an advisory lock of its name for as long as its connection lasts.
"""

from contextlib import suppress
from typing import Final

import psycopg

from agentsys.blackboard.postgres.dropping import LOCK_SECONDS
from agentsys.blackboard.postgres.link import Driver

_MARK: Final = "agentsys: an import that is under way"
_LOCK: Final = "SELECT pg_advisory_lock(hashtextextended(%s, 0))"
_TRY_LOCK: Final = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_UNLOCK: Final = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
_MARKED: Final = (
    "SELECT nspname FROM pg_namespace"
    " WHERE obj_description(oid, 'pg_namespace') = %s AND pg_has_role(nspowner, 'USAGE')"
)


def begin(connection: Driver, schema: str) -> None:
    """Make the schema of an import, which is under way for as long as ``connection`` lasts."""
    connection.execute(_LOCK, (schema,))
    with connection.transaction():
        connection.execute(f"CREATE SCHEMA {schema}".encode())
        connection.execute(f"COMMENT ON SCHEMA {schema} IS '{_MARK}'".encode())


def end(connection: Driver, schema: str, name: str) -> None:
    """Give the schema of an import its name. Fails where somebody made a schema of that name meanwhile."""
    with connection.transaction():
        connection.execute(f"COMMENT ON SCHEMA {schema} IS NULL".encode())
        connection.execute(f"ALTER SCHEMA {schema} RENAME TO {name}".encode())


def remove_left(connection: Driver) -> None:
    """Drop what imports left that nobody makes any more, as far as this user may and nobody reads it just now."""
    for (schema,) in connection.execute(_MARKED, (_MARK,)).fetchall():
        (dead,) = connection.execute(_TRY_LOCK, (schema,)).fetchone() or (False,)
        if not dead:
            continue
        with suppress(psycopg.Error), connection.transaction():
            connection.execute(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'".encode())
            # It may have got its name since.
            connection.execute(f"DROP SCHEMA IF EXISTS {schema} CASCADE".encode())
        connection.execute(_UNLOCK, (schema,))
