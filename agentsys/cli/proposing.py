"""The model that writes policies for ``agentsys evolve``, opened for as long as the search asks it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentsys.settings import load_settings

if TYPE_CHECKING:
    from agentsys.serving.engine import Engine
    from agentsys.serving.requests import GenerateRequest
    from agentsys.serving.simulator.proposers import ModelProposer


@contextmanager
def model_proposer(spec: str) -> Iterator[ModelProposer]:
    """Give a proposer that asks the model ``spec``, with the settings of ``model.*`` beside its name."""
    from agentsys.embedded import options_of
    from agentsys.serving.models import engine_factory
    from agentsys.serving.simulator.proposers import ModelProposer

    engine = engine_factory(spec, options_of(load_settings().settings))()
    with asyncio.Runner() as runner:
        try:
            yield ModelProposer(
                lambda requests: runner.run(_answers(engine, requests)), engine.capabilities().constraints
            )
        finally:
            runner.run(engine.close())


async def _answers(engine: Engine, requests: Sequence[GenerateRequest]) -> list[str]:
    async def answer(request: GenerateRequest) -> str:
        return "".join([chunk.text async for chunk in engine.submit(request)])

    return await asyncio.gather(*map(answer, requests))
