"""Our own attacks on information flow: small scenarios over the real runtime, with a model that obeys all it reads.

``stage`` has the world, its tools and the model, ``case`` what a case is, ``weakenings`` a planted fault for each case,
under which it must succeed; the modules under ``families`` hold the cases, ``suite`` collects and runs them.
"""
