"""``agentsys policy``: read a policy, explain what it comes to, test it, and compare two."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from agentsys.cli.output import ExitCode, JsonOption, err, out, print_json, print_table, reported_errors

if TYPE_CHECKING:
    from agentsys.policy.comparison import TextChange, VerdictChange
    from agentsys.policy.policy import Policy

app = typer.Typer(help="Check, explain, test and compare policies.", no_args_is_help=True)

FileArgument = Annotated[
    Path | None, typer.Argument(help="The policy's TOML file; default: the settings'.", show_default=False)
]
ProgramOption = Annotated[
    Path | None, typer.Option("--program", help="A Python file whose tools the policy will stand over.")
]


@app.command()
def check(file: FileArgument = None, program: ProgramOption = None, as_json: JsonOption = False) -> None:
    """Read a policy, and name what is likely a mistake in it. Exit code 2 for one that cannot be read."""
    from agentsys.policy.advice import advice

    with reported_errors(as_json=as_json):
        policy = _policy(file)
        found = advice(policy, None if program is None else _tools_of(program))
    if as_json:
        print_json({"version": policy.version, "tools": sorted(policy.tools), "advice": found})
        return
    for line in found:
        err.print(f"[yellow]advice[/] {escape(line)}", highlight=False)
    out.print(f"policy {policy.version}: {len(policy.tools)} tools, {len(policy.tests)} tests", highlight=False)


@app.command()
def explain(
    tool: Annotated[str | None, typer.Argument(help="The tool; default: every tool of the policy.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="The policy's TOML file; default: the settings'.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how calls are decided: who may shape what, who may learn it, and by which rule."""
    from agentsys.policy.situations import verdicts

    with reported_errors(as_json=as_json):
        policy = _policy(file)
        names = sorted(policy.tools) if tool is None else [tool]
        found = {name: verdicts(policy, name) for name in names}
    if as_json:
        print_json({name: {case: vars_of(outcome) for case, outcome in cases.items()} for name, cases in found.items()})
        return
    for name, cases in found.items():
        rows = [[case, outcome.verdict, outcome.rule, outcome.reason] for case, outcome in cases.items()]
        print_table(["situation", "verdict", "rule", "why"], rows, title=_title(policy, name))


@app.command()
def test(file: FileArgument = None, as_json: JsonOption = False) -> None:
    """Decide about the calls of the policy's own ``[[tests]]``. Exit code 1 where one comes out otherwise."""
    from agentsys.policy.situations import fault_of, outcome_of_trial

    with reported_errors(as_json=as_json):
        policy = _policy(file)
        outcomes = [(trial, outcome_of_trial(policy, trial)) for trial in policy.tests]
    found = [(trial.name, fault_of(trial, outcome)) for trial, outcome in outcomes]
    faults = [{"test": name, "fault": fault} for name, fault in found if fault is not None]
    if as_json:
        print_json({"tests": len(outcomes), "faults": faults})
    else:
        for one in faults:
            err.print(f"[bold red]failed[/] {escape(': '.join(one.values()))}", highlight=False)
        out.print(f"{len(outcomes) - len(faults)} of {len(outcomes)} tests passed", highlight=False)
    if faults:
        raise typer.Exit(ExitCode.FAILED)


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(help="The policy as it was.")],
    new: Annotated[Path, typer.Argument(help="The policy as it will be.")],
    strict: Annotated[
        bool, typer.Option("--no-looser", help="Exit code 1 where the new one lets through more.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what another policy says otherwise, and which situations it decides otherwise."""
    from agentsys.policy.comparison import text_changes, verdict_changes, widened
    from agentsys.policy.documents import load_policy

    with reported_errors(as_json=as_json):
        policies = load_policy(old), load_policy(new)
        verdicts, texts = verdict_changes(*policies), text_changes(*policies)
        wider = [change.place for change in widened(*policies)]
    looser = [change for change in verdicts if change.direction == "looser"]
    if as_json:
        print_json(_differences(verdicts, texts, wider))
    else:
        rows = [[one.tool, one.situation, one.before.verdict, one.after.verdict, one.direction] for one in verdicts]
        print_table(["tool", "situation", "was", "is", "so"], rows, title=f"looser in {len(looser)} situations")
        places = [[one.place, one.before, one.after, "looser" if one.place in wider else ""] for one in texts]
        if places:
            print_table(["place", "was", "is", "so"], places)
    if strict and (looser or wider):
        raise typer.Exit(ExitCode.FAILED)


def _differences(
    verdicts: Sequence[VerdictChange], texts: Sequence[TextChange], wider: Collection[str]
) -> dict[str, list[dict[str, Any]]]:
    return {
        "verdicts": [
            {"tool": one.tool, "situation": one.situation, "direction": one.direction}
            | {"before": vars_of(one.before), "after": vars_of(one.after)}
            for one in verdicts
        ],
        "texts": [
            {"place": one.place, "before": one.before, "after": one.after, "looser": one.place in wider}
            for one in texts
        ],
    }


@app.command()
def schema() -> None:
    """Print the JSON schema of a policy's file, for editors that complete and check TOML by one."""
    from agentsys.policy.policy import Policy

    print_json(Policy.model_json_schema())


def vars_of(outcome: Any) -> dict[str, str]:
    """Return an outcome as JSON."""
    return {"verdict": outcome.verdict, "rule": outcome.rule, "reason": outcome.reason}


def _policy(file: Path | None) -> Policy:
    from agentsys.errors import ConfigurationError
    from agentsys.policy.documents import load_policy
    from agentsys.settings import load_settings

    path = file or load_settings().settings.policy
    if path is None:
        raise ConfigurationError("No policy is given.", remedy="Name its file, or set `policy` in agentsys.toml.")
    return load_policy(path)


def _tools_of(program: Path) -> list[Any]:
    from agentsys.cli.composition import file_members
    from agentsys.tools import Tool

    return [member for member in file_members(program) if isinstance(member, Tool)]


def _title(policy: Policy, name: str) -> str:
    rule = policy.rule(name)
    audience = "as declared" if rule.audience is None else ", ".join(rule.audience) or "nobody"
    spans = (("a run", rule.limits.run), ("an hour", rule.limits.hour))
    limits = [f"{count} {span}" for span, count in spans if count]
    parts = [f"told to {audience}", *(["declassifies"] if rule.declassifies else []), f"asks {rule.ask}", *limits]
    return f"{name}: {' · '.join(parts)}"
