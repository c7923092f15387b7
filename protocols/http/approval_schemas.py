"""What a person says about an approval. ``binding``, where given, is that of what the person was shown."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Refuse(BaseModel):
    """A word that needs no more than a reason."""

    model_config = ConfigDict(extra="forbid")

    note: str = Field("", max_length=4000)
    binding: str | None = Field(None, max_length=100)


class Approve(Refuse):
    """A yes; ``answer`` is that to a question."""

    answer: Any = None


class Modify(Refuse):
    """``edited``: all arguments as they shall be, or the value."""

    edited: Any


class Escalate(Refuse):
    """``to``: the principal that shall decide."""

    to: str = Field(min_length=1, max_length=200)
