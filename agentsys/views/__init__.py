"""Read models: what a board says about runs, commits and entries, as plain data for any face."""
