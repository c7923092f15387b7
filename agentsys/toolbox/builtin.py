"""The built-in tools that the settings name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from agentsys.containment.limits import MIB
from agentsys.errors import ConfigurationError
from agentsys.settings import Settings
from agentsys.tools import Tool

if TYPE_CHECKING:
    from agentsys.lake.lake import Lake


def builtin_tools(settings: Settings, open_lake: Callable[[str], Lake]) -> list[Tool]:
    """Return the tools under ``tools.builtin``. Raises :class:`ConfigurationError` where one lacks what it needs."""
    chosen = settings.tools.builtin
    tools = [_python(settings)] if "run_python" in chosen else []
    tools += [_fetch(settings)] if "fetch" in chosen else []
    return [*tools, *_files(settings, open_lake)] if "query_files" in chosen else tools


def _python(settings: Settings) -> Tool:
    from agentsys.toolbox.python import DEFAULT_LIMITS, python_tool

    seconds, memory = settings.python.seconds, settings.python.memory_mib * MIB
    limits = replace(DEFAULT_LIMITS, seconds=seconds, cpu_seconds=seconds, memory_bytes=memory)
    readable = [path.expanduser() for path in settings.python.readable]
    return python_tool(readable=readable, limits=limits, weak=settings.tools.containment == "weak")


def _fetch(settings: Settings) -> Tool:
    from agentsys.toolbox.fetch import fetch_tool

    said = settings.fetch
    if not said.hosts:
        raise ConfigurationError(
            "The tool fetch may connect to no host.",
            remedy="Name hosts under [fetch], or leave it out of tools.builtin.",
        )
    return fetch_tool(
        said.hosts,
        private=said.private,
        insecure=said.insecure,
        consequential=said.consequential,
        seconds=said.seconds,
        max_bytes=said.max_kib * 1024,
    )


def _files(settings: Settings, open_lake: Callable[[str], Lake]) -> list[Tool]:
    from agentsys.lake.queries.sandbox import SandboxLimits
    from agentsys.toolbox.files import files_tools

    folder, lake = settings.files.folder, settings.lake
    if folder is None:
        raise ConfigurationError(
            "The tool query_files has no folder to read.",
            remedy="Name a folder under [files], or leave it out of tools.builtin.",
        )
    limits = SandboxLimits(lake.query_seconds, lake.query_memory_mib * MIB, lake.query_rows)
    return files_tools(open_lake(folder), limits)
