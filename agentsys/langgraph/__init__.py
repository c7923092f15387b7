"""LangGraph on the board: its checkpoints and its long-term memory, with write ownership."""
