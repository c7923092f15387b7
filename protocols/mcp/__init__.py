"""MCP: workflows, tools and the board for Model Context Protocol clients."""
