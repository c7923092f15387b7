"""A virtual clock around the real schedulers: workloads, policies, optima, and the search for better policies."""
