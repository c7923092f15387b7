"""``agentsys bench``: one command for every claim the documents make."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentsys.cli.output import ExitCode, JsonOption, err, out, print_json, print_table, reported_errors
from agentsys.cli.results import check_file, make_folder
from agentsys.cli.startup import calm_the_collector
from agentsys.errors import ConfigurationError

if TYPE_CHECKING:
    from agentsys.benchmarks.harness import BenchResult

BENCHMARKS = {
    "engine": "the torch engine against transformers generate: tokens/s and perplexity of each weight format",
    "discovery": "recall of the right files of a data lake, against BM25",
    "demo": "the demo lake with the local model: right file, right answer, memory",
    "console": "the console over a large board in Chromium: first content, commit to page, reruns under a stream",
    "conformance": "the official MCP conformance suite against our face, for two protocol revisions",
    "board": "commits/s beside raw SQLite, fairness, recovery; --peer langgraph: our checkpoint saver beside theirs",
    "isolation": "transactions of several processes, in which checkers look for anomalies; --set kills=N kills some",
    "crash": "kill -9 of processes that commit and act: nothing acknowledged lost, no effect doubled; --set kills=N",
    "ifc": "AgentDojo over the real runtime and a fully gullible model: attacks, tasks and approvals in six arms",
    "http": "1,000 streams at once from the model server, what they leave, a full dispatcher's and an engine's memory",
    "workers": "how long the runs of a worker wait that is killed, until another goes on with them",
    "mutants": "small faults put into the policy engine, one at a time: how many its tests notice",
    "labels": "what labels cost: checks and joins of a tool call, their share of a run, growth with influencers",
    "containment": "what walls add to the start of a program, and what a planted program gets through to",
    "attacks": "our own attacks on information flow, each beside a fault that must let it through; --set family=NAME",
    "serving": "workflows on a real engine (--engine vllm or torch): SLO scales of its own orders and of ours",
    "simulate": "policies on a simulated cluster: SLO scale, bounds, the simulator's error, cost of decisions",
    "structure": "lengths of files and functions, import circles",
}


def bench(
    name: Annotated[
        str,
        typer.Argument(
            help="Benchmark to run, `list`, or `compare` with two result files.",
            autocompletion=lambda: [*BENCHMARKS, "list", "compare"],
        ),
    ],
    files: Annotated[list[Path] | None, typer.Argument(help="Of `compare`: the files before and after.")] = None,
    quick: Annotated[bool, typer.Option(help="Fewer repetitions and cases.")] = False,
    check: Annotated[bool, typer.Option(help="Exit 1 when a bar is missed.")] = False,
    repeats: Annotated[int, typer.Option(min=1, help="Repetitions of each arm.")] = 5,
    peer: Annotated[str | None, typer.Option(help="Of `board`: what to compare with instead of raw SQLite.")] = None,
    engine: Annotated[
        str | None, typer.Option(help="Of `serving`: vllm or torch.", autocompletion=lambda: ["vllm", "torch"])
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Of `serving`: cpu or cuda.", autocompletion=lambda: ["cpu", "cuda"])
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the JSON file.")] = Path("benchmarks/results/local"),
    arguments: Annotated[
        list[str] | None, typer.Option("--set", help="An argument of the benchmark, NAME=VALUE.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Of `compare`: draw the repetitions into this image file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run a benchmark: a table on stdout, a JSON file with the machine's fingerprint, the figure last."""
    if name == "list":
        if as_json:
            print_json(BENCHMARKS)
        else:
            print_table(["benchmark", "what it measures"], list(BENCHMARKS.items()))
        return
    with reported_errors(as_json=as_json):
        if name == "compare":
            _compare(files or [], plot, as_json=as_json)
            return
        if name not in BENCHMARKS:
            raise ConfigurationError(
                f"There is no benchmark {name!r}.", remedy=f"Choose one of: {', '.join(BENCHMARKS)}."
            )
        from agentsys.benchmarks.harness import Options, write_json

        module = importlib.import_module(f"agentsys.benchmarks.{name}")
        make_folder("--output", output)
        # Boards are measured as in a server.
        calm_the_collector()
        named = {"peer": peer, "engine": engine, "device": device}
        named_arguments = {key: value for key, value in named.items() if value is not None}
        # Many take minutes, and most say nothing until they end.
        err.print(f"{name}: {BENCHMARKS[name]}", style="dim", highlight=False, markup=False)
        result: BenchResult = module.main(Options(quick, repeats, _arguments(arguments or []) | named_arguments))
    path = write_json(result, output)
    if as_json:
        print_json({"figure": result.figure, "columns": result.columns, "rows": result.rows, "file": str(path)})
    else:
        _print(result)
    err.print(f"written to {path}", highlight=False)
    if not as_json:
        out.print(result.figure, highlight=False)
    if check and not all(bar.met for bar in result.bars):
        raise typer.Exit(ExitCode.FAILED)


def _arguments(pairs: list[str]) -> dict[str, str]:
    for pair in pairs:
        if "=" not in pair:
            raise ConfigurationError(
                f"--set takes NAME=VALUE, not {pair!r}.", remedy="agentsys bench NAME --set NAME=VALUE"
            )
    return dict(pair.split("=", 1) for pair in pairs)


def _compare(files: list[Path], plot: Path | None, *, as_json: bool) -> None:
    from dataclasses import asdict

    from agentsys.benchmarks import compare

    if len(files) != 2:
        raise ConfigurationError(
            f"compare takes two result files, not {len(files)}.", remedy="agentsys bench compare BEFORE.json AFTER.json"
        )
    check_file("--plot", plot)
    if plot is not None:
        compare.check_image(plot)
    before, after = map(compare.load_result, files)
    changes = compare.compare(before, after)
    if plot is not None:
        compare.plot(changes, before, after, plot)
    if as_json:
        print_json([asdict(change) | {"verdict": change.verdict} for change in changes])
        return
    rows = []
    for change in changes:
        interval = "" if change.ratio is None else f"{change.ratio:.3f} ({change.low:.3f} to {change.high:.3f})"
        rows.append([change.arm, change.before, change.after, interval, change.verdict])
    print_table(["arm", "before", "after", "after ÷ before (95 %)", "verdict"], rows, title=before["name"])


def _print(result: BenchResult) -> None:
    print_table(result.columns, result.rows, title=result.name)
    for note in result.notes:
        out.print(note, highlight=False, markup=False)
    for bar in result.bars:
        sign = "≥" if bar.at_least else "≤"
        mark = "[green]met[/]   " if bar.met else "[red]missed[/]"
        out.print(f"{mark} {bar.name}: {bar.value:.4g} (bar {sign} {bar.bound:g})", highlight=False)
