"""A foreign tool's JSON Schema as the pydantic model that a tool's arguments are checked with.

Nothing that a schema names is fetched, and its regular expressions are left to the server: a hostile one could keep
this process busy for hours.
"""

from __future__ import annotations

from typing import Any

from jsonschema.exceptions import SchemaError, best_match
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, validator_for
from pydantic import BaseModel, ConfigDict, create_model, model_validator

from agentsys.schemas import validator_of


class ForeignArguments(BaseModel):
    """The arguments of a foreign tool; a subclass for each tool has its validator and its schema."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _check(cls, given: Any) -> Any:
        fault = best_match(_validators[cls].iter_errors(given))
        if fault is not None:
            where = "/".join(str(part) for part in fault.absolute_path)
            raise ValueError(f"{where + ': ' if where else ''}{fault.message[:500]}")
        return given

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        schema = _validators[cls].schema
        return dict(schema) if isinstance(schema, dict) else {}


_validators: dict[type[BaseModel], Validator] = {}


def arguments_model(name: str, schema: dict[str, Any]) -> type[BaseModel]:
    """Return a model that lets through exactly what ``schema`` does, as it is given."""
    model = create_model(f"{name}_arguments", __base__=ForeignArguments)
    _validators[model] = validator_of(schema)
    return model


def fault_of_schema(schema: dict[str, Any]) -> str | None:
    """Return why ``schema`` cannot be that of a tool's arguments, or ``None``."""
    try:
        validator_for(schema, default=Draft202012Validator).check_schema(schema)
    except SchemaError as error:
        return f"its input schema is none: {error.message[:200]}"
    except Exception as error:
        return f"its input schema cannot be checked: {type(error).__name__}"
    return None
