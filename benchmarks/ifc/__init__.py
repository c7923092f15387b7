"""AgentDojo over the real runtime: what a fully gullible model can be made to do, under six policies.

``dojo`` loads suites and writes injections, ``ground_truths`` scripts the calls that AgentDojo leaves out, ``tools``
puts a live environment behind the gateway, ``script`` and ``gullible`` are the model, ``element`` is AgentDojo's
pipeline element that runs the runtime, ``audit`` judges what was done, and ``arms`` are the policies.
"""


def __getattr__(name: str) -> object:
    """Import ``main`` when it is asked for: AgentDojo is an extra, and takes seconds to import."""
    if name == "main":
        from agentsys.benchmarks.ifc.bench import main

        return main
    raise AttributeError(name)
