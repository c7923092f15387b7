"""The one exception tree of agentsys, and its stable codes.

::

    AgentsysError                 AGS-0000
    ├── ConfigurationError        AGS-01xx   settings, unknown keys, bad values
    ├── BoardError                AGS-02xx   the shared state
    │   └── Conflict              AGS-0210   a transaction lost against another (defined in blackboard.conflicts)
    ├── LabelError                AGS-03xx   a flow that a label forbids
    │   └── PolicyDenied          AGS-0310   the gateway refused a call
    ├── ServingError              AGS-04xx   models, engines, weights
    ├── LakeError                 AGS-05xx   files, tables, queries
    └── RunError                  AGS-06xx   runs, agents, workflows

Each concrete error is a subclass that lives beside the code that raises it and sets ``code`` and ``remedy``;
``docs/errors.md`` has a section for every code, and a test holds the two together.
"""

from __future__ import annotations

from typing import ClassVar

DOCUMENTATION = "docs/errors.md"


class AgentsysError(Exception):
    """Base of every error this package raises on purpose.

    ``message`` names the value and the cause; ``remedy`` says what to do about it.
    """

    code: ClassVar[str] = "AGS-0000"
    remedy: str = "See docs/errors.md."

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if remedy is not None:
            self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.code}: {self.message} {self.remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process boundaries (tool sandboxes, the commit socket), and keyword-only arguments do not pickle.
        return (_rebuild, (type(self), self.message, self.__dict__.copy()))

    def to_json(self) -> dict[str, str]:
        """Return the shape printed by ``--json``: code, type, message, remedy."""
        return {"code": self.code, "type": type(self).__name__, "message": self.message, "remedy": self.remedy}


def _rebuild(kind: type[AgentsysError], message: str, state: dict[str, object]) -> AgentsysError:
    error = kind.__new__(kind)
    Exception.__init__(error, message)
    error.__dict__.update(state)
    return error


class ConfigurationError(AgentsysError):
    """A setting is unknown, malformed or contradictory."""

    code = "AGS-0100"
    remedy = "Run `agentsys config show` to see every setting and where its value comes from."


def cause_in_file(error: Exception) -> str:
    """Return why a file could not be read, or its JSON not be taken, without Python's own words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


class BoardError(AgentsysError):
    """The shared state refused an operation."""

    code = "AGS-0200"


class LabelError(AgentsysError):
    """A value would flow somewhere its label forbids."""

    code = "AGS-0300"


class ServingError(AgentsysError):
    """A model call could not be served."""

    code = "AGS-0400"


class LakeError(AgentsysError):
    """A data file, table or query could not be used."""

    code = "AGS-0500"


class RunError(AgentsysError):
    """A run, an agent or a workflow failed."""

    code = "AGS-0600"
