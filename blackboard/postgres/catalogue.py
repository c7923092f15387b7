"""The boards of a PostgreSQL database: the schemas that hold one, as far as the user may use them."""

from contextlib import closing
from typing import Final

from sqlalchemy import make_url

from agentsys.blackboard.postgres.address import SCHEMA_PREFIX, Address
from agentsys.blackboard.postgres.connections import PostgresDatabase
from agentsys.blackboard.schema import BOARD

_SCHEMAS: Final = (
    "SELECT n.nspname FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = %s"
    " WHERE starts_with(n.nspname, %s) AND has_schema_privilege(n.oid, 'USAGE')"
    " AND has_table_privilege(c.oid, 'SELECT')"
)


def boards_of(location: str) -> dict[str, str]:
    """Return the address of each board, by name, in the database of ``location``. Raises :class:`BoardUnreachable`."""
    database = PostgresDatabase(Address.parse(location))
    with closing(database), database.translated_errors(), database.readers.connect() as connection:
        rows = connection.exec_driver_sql(_SCHEMAS, (BOARD.name, SCHEMA_PREFIX)).fetchall()
    names = [row[0].removeprefix(SCHEMA_PREFIX) for row in rows]
    url = make_url(location)
    return {name: url.update_query_dict({"board": name}).render_as_string(hide_password=False) for name in names}
