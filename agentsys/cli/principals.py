"""``agentsys principals``: who may call a server beside its owner."""

from __future__ import annotations

from typing import Annotated

import typer

from agentsys.cli.output import JsonOption, err, out, print_json, print_table, reported_errors
from agentsys.settings import load_settings

app = typer.Typer(help="See who may call the server beside its owner, and make tokens.", no_args_is_help=True)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the principals of the settings, and where each one's token is kept; no token is shown."""
    from agentsys.protocols.principals import principal_of

    with reported_errors(as_json=as_json):
        named = load_settings().settings.principals
    kept = [
        {"name": name, "principal": principal_of(name), "kept": _kept(one.token_hash, one.token_file)}
        for name, one in sorted(named.items())
    ]
    if as_json:
        print_json(kept)
        return
    print_table(["name", "principal", "token"], [list(one.values()) for one in kept])


@app.command("token")
def token(
    name: Annotated[str, typer.Argument(metavar="NAME", help="For whom; NAME is the principal user:NAME.")],
    as_json: JsonOption = False,
) -> None:
    """Make a token for a principal: printed once, to be handed over; the settings keep its digest alone."""
    from agentsys.protocols.principals import HASH, digest_of, new_token

    made = new_token()
    digest = HASH + digest_of(made)
    if as_json:
        print_json({"name": name, "token": made, "token_hash": digest})
        return
    out.print(made, highlight=False, markup=False)
    for line in ("# agentsys.toml", f'[principals."{name}"]', f'token_hash = "{digest}"'):
        err.print(line, highlight=False, markup=False)


def _kept(token_hash: object, token_file: object) -> str:
    if token_hash is not None:
        return "digest"
    return "environment or settings" if token_file is None else f"file {token_file}"
