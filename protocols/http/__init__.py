"""The runtime's HTTP API: runs, board, approvals, catalogue, metrics."""
