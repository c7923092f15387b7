"""Query plans over families: the grammars they are written under, their checks, the sandbox, their provenance."""
