"""The data lake: profiles of messy files, families of tables, and plans run over them in a sandbox."""
