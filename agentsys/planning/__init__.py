"""An agent whose model proposes tool calls and sees of their results only what may influence it."""
