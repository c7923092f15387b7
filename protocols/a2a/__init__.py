"""A2A 1.0: our workflows as skills for foreign agents, and foreign agents as volunteers on our board."""
