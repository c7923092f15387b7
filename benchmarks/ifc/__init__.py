"""AgentDojo over the real runtime: what a fully gullible model can be made to do, under six policies.

``dojo`` loads suites and writes injections, ``ground_truths`` scripts the calls that AgentDojo leaves out, ``tools``
puts a live environment behind the gateway, ``script`` and ``gullible`` are the model, ``element`` is AgentDojo's
pipeline element that runs the runtime, ``audit`` judges what was done, and ``arms`` are the policies. Our own
attacks are in ``attacks``.
"""

from agentsys.errors import ConfigurationError


def __getattr__(name: str) -> object:
    """Import ``main`` when it is asked for: AgentDojo is an extra, and takes seconds to import."""
    if name != "main":
        raise AttributeError(name)
    try:
        from agentsys.benchmarks.ifc.bench import main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("agentdojo", "yaml"):
            raise
        raise ConfigurationError(
            "AgentDojo is not installed.", remedy="pip install 'agentsys-runtime[ifc]', the extra that brings it."
        ) from error
    return main
