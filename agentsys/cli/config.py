"""``agentsys config``: every setting, its value and where the value comes from."""

from __future__ import annotations

import typer

from agentsys.cli.output import JsonOption, print_json, print_table, reported_errors
from agentsys.settings import Settings, flatten, is_secret, load_settings

app = typer.Typer(help="Show settings and where each value comes from.", no_args_is_help=True)


@app.command("show")
def show(as_json: JsonOption = False) -> None:
    """List every setting with its value, source and meaning."""
    with reported_errors(as_json=as_json):
        loaded = load_settings()
    values = {
        key: "(hidden)" if is_secret(key) and value is not None else value
        for key, value in flatten(loaded.settings).items()
    }
    if as_json:
        print_json({key: {"value": value, "source": loaded.sources[key]} for key, value in values.items()})
        return
    meanings = _meanings()
    print_table(
        ["setting", "value", "source", "meaning"],
        [[key, value, loaded.sources[key], meanings[key]] for key, value in values.items()],
    )


def _meanings() -> dict[str, str]:
    meanings: dict[str, str] = {}
    for key, field in Settings.model_fields.items():
        section = field.annotation
        inner = getattr(section, "model_fields", None)
        if inner is None:
            meanings[key] = field.description or ""
        else:
            meanings |= {f"{key}.{name}": item.description or "" for name, item in inner.items()}
    return meanings
