"""Where a request's calls stand in their workflow, from its body, its headers, and who sends it."""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field

from agentsys.serving.requests import WorkflowCall
from agentsys.serving.server.errors import OtherTenantError
from agentsys.serving.server.urgency import Urgencies

_LARGEST_INTEGER = 2**63 - 1

Name = Annotated[str, Field(min_length=1, max_length=256)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Priority = Annotated[int, Field(ge=-_LARGEST_INTEGER - 1, le=_LARGEST_INTEGER)]


class PlaceFields(BaseModel):
    """What a body says of its place.

    ``workflow`` names the instance, whose requests share the ``deadline`` (seconds from now) that one of them gave;
    ``workflow_kind`` and ``stage`` name the workflow and the step that asks, which repeat, so that costs are learned.
    ``tenant`` is whose it is. ``priority`` is κ in milliseconds of unix time, smaller first, so a small one goes before
    every deadline; a request that names neither has no hurry.
    """

    workflow: Name | None = None
    workflow_kind: Name | None = None
    stage: Name | None = None
    tenant: Name | None = None
    deadline: Seconds | None = None
    priority: Priority | None = None


class PlaceHeaders(BaseModel):
    """The same as headers, for clients that cannot send further fields. The body's own fields count before them."""

    model_config = ConfigDict(extra="ignore")

    x_agentsys_workflow: Name | None = None
    x_agentsys_workflow_kind: Name | None = None
    x_agentsys_stage: Name | None = None
    x_agentsys_tenant: Name | None = None
    x_agentsys_deadline: Seconds | None = None
    x_agentsys_priority: Priority | None = None

    def fill(self, fields: PlaceFields) -> PlaceFields:
        """Return ``fields`` with what only the headers say."""
        given = fields.model_dump(include=set(PlaceFields.model_fields))
        named = {name: getattr(self, f"x_agentsys_{name}") for name in given}
        return PlaceFields(**{name: named[name] if value is None else value for name, value in given.items()})


class Places:
    """Turns these fields into :class:`~agentsys.serving.requests.WorkflowCall` and κ."""

    def __init__(self, urgencies: Urgencies | None = None) -> None:
        self._urgencies = Urgencies() if urgencies is None else urgencies

    def of(self, fields: PlaceFields, user: str | None) -> tuple[float, WorkflowCall | None]:
        """Return κ and the place, which is ``None`` of a call that nothing is known of.

        ``user`` is who sent the request, where that is known: the tenant, whose workflows are nobody else's.
        Raises :class:`OtherTenantError`.
        """
        if user is not None and fields.tenant not in (None, user):
            raise OtherTenantError(f"{user} cannot be tenant {fields.tenant!r}.")
        tenant = user or fields.tenant or ""
        workflow = _scoped(user, fields.workflow)
        horizon = self._urgencies.horizon(deadline=fields.deadline, workflow=workflow)
        urgency = horizon.urgency(fields.priority)
        known = (workflow, fields.workflow_kind, fields.stage, tenant, fields.deadline)
        if not any(part is not None and part != "" for part in known):
            return urgency, None
        return urgency, WorkflowCall(
            workflow=workflow or uuid4().hex,
            kind=_scoped(user, fields.workflow_kind) or "",
            stage=fields.stage or "",
            tenant=tenant,
            deadline=horizon.deadline,
            arrived=horizon.arrived,
            urgency=urgency if urgency < horizon.deadline else None,
        )


def user_of(request: Request) -> str | None:
    """Return the principal that sent a request; ``None`` is the owner, or anybody where nobody authenticates."""
    user = request.scope.get("user")
    return None if user is None else str(user.display_name)


def _scoped(user: str | None, name: str | None) -> str | None:
    # Names of one user must not meet those of another: they would share a deadline, and teach each other costs.
    return f"{user}/{name}" if user and name else name
