"""``agentsys config``: every setting, its value and where the value comes from."""

from __future__ import annotations

import typer
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from agentsys.cli.output import JsonOption, print_json, print_table, reported_errors
from agentsys.settings import Settings, flatten, is_secret, load_settings, without_credentials

app = typer.Typer(help="Show settings and where each value comes from.", no_args_is_help=True)


@app.command("show")
def show(as_json: JsonOption = False) -> None:
    """List every setting with its value, source and meaning."""
    with reported_errors(as_json=as_json):
        loaded = load_settings()
    values = {
        key: "(hidden)" if is_secret(key) and value is not None else without_credentials(to_jsonable_python(value))
        for key, value in flatten(loaded.settings).items()
    }
    if as_json:
        print_json({key: {"value": value, "source": loaded.sources[key]} for key, value in values.items()})
        return
    meanings = _meanings(Settings, "")
    print_table(
        ["setting", "value", "source", "meaning"],
        [[key, value, loaded.sources[key], meanings[key]] for key, value in values.items()],
    )


def _meanings(section: type[BaseModel], prefix: str) -> dict[str, str]:
    meanings: dict[str, str] = {}
    for name, field in section.model_fields.items():
        within = field.annotation
        if isinstance(within, type) and issubclass(within, BaseModel):
            meanings |= _meanings(within, f"{prefix}{name}.")
        else:
            meanings[prefix + name] = field.description or ""
    return meanings
