"""The board in a PostgreSQL database, shared by several machines; needs the extra `postgres`."""
