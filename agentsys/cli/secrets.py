"""``agentsys secrets``: the secrets of the settings, by name; their values are shown nowhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from agentsys.cli.output import ExitCode, JsonOption, print_json, print_table, reported_errors

if TYPE_CHECKING:
    from agentsys.secrets import Secret, Secrets

app = typer.Typer(help="See which secrets tools may be given, and whether they are there.", no_args_is_help=True)


@app.command("list")
def list_(as_json: JsonOption = False) -> None:
    """List the secrets: where each comes from, which tools may have it, and whom it may be told."""
    with reported_errors(as_json=as_json):
        found = [_document(secret) for secret in _declared()]
    if as_json:
        print_json(found)
        return
    rows = [[one["secret"], one["source"], ", ".join(one["tools"]), ", ".join(one["readers"])] for one in found]
    print_table(["secret", "comes from", "tools", "readers"], rows)


@app.command("check")
def check(as_json: JsonOption = False) -> None:
    """Read every secret, and say of which there is none; exit code 1 where one is missing."""
    from agentsys.secrets import SecretUnavailable

    found: list[dict[str, Any]] = []
    with reported_errors(as_json=as_json):
        for secret in _declared():
            try:
                secret.value()
                fault = ""
            except SecretUnavailable as error:
                fault = error.message
            found.append({"secret": secret.name, "ok": not fault, "fault": fault, "advice": _advice(secret)})
    if as_json:
        print_json(found)
    else:
        said = [[one["secret"], "ok" if one["ok"] else "missing", one["fault"] or one["advice"]] for one in found]
        print_table(["secret", "state", "what"], said)
    if not all(one["ok"] for one in found):
        raise typer.Exit(ExitCode.FAILED)


def known_secrets() -> Secrets:
    """Return the secrets of the settings, whose values go into no record, also where a person gives them."""
    from agentsys.secrets import Secrets

    return Secrets.of(*_declared())


def _declared() -> list[Secret]:
    from agentsys.secrets import declared_in
    from agentsys.settings import load_settings

    return declared_in(load_settings().settings)


def _document(secret: Secret) -> dict[str, Any]:
    return {
        "secret": secret.name,
        "source": secret.source,
        "tools": sorted(secret.tools),
        "readers": sorted(secret.readers.members or ()),
    }


def _advice(secret: Secret) -> str:
    if not secret.tools:
        return "granted to no tool: it is only taken out of what others say"
    return "" if secret.readers.members else "no readers: only tools that tell nobody their arguments may have it"
