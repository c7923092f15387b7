"""The context of the actor whose code is running, for what cannot be handed one, such as a LangChain model."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentsys.context import Context

current_context: ContextVar[Context | None] = ContextVar("agentsys_current_context", default=None)
