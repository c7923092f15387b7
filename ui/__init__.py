"""The console: a read-only view of a board in the browser. Needs the extra ``console``."""
