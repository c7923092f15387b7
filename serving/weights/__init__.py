"""Model weights on this machine: where they come from, how they are checked, where they lie."""
