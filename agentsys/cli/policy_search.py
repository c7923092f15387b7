"""``agentsys tune`` and ``agentsys evolve``: search for better scheduling on the simulator, believe held-out traces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from agentsys.cli.model_names import completed_source, completed_spec
from agentsys.cli.output import JsonOption, err, out, print_json, print_table, reported_errors
from agentsys.cli.results import check_file

if TYPE_CHECKING:
    from agentsys.serving.simulator.evolution import Bench, Evolution
    from agentsys.serving.simulator.expression_policy import ExpressionPolicy
    from agentsys.serving.simulator.proposers import ModelProposer
    from agentsys.serving.simulator.trace import Trace

SeedOption = Annotated[int, typer.Option(help="Seed of the search.")]
TrainingOption = Annotated[
    list[Path] | None, typer.Option("--training", help="Trace to search on, a JSON file; default: a generated one.")
]
HeldOutOption = Annotated[
    list[Path] | None, typer.Option("--held-out", help="Trace that decides, a JSON file; default: two generated ones.")
]
WorkflowsOption = Annotated[int, typer.Option(min=5, help="Workflows of each generated trace.")]
LoadOption = Annotated[float, typer.Option(min=0.05, max=2.0, help="Load of generated traces, of the capacity.")]
ScaleOption = Annotated[float, typer.Option(min=0.1, help="Scale at which deadlines are told.")]

TRAINING_SEEDS = (1000,)
HELD_OUT_SEEDS = (1, 2)
CAPACITY_SLOTS = 32
GATE_RUNS = 4
GATE_TOKEN_SECONDS = 0.05


def tune(
    trials: Annotated[int, typer.Option(min=1, help="Settings to try, in all.")] = 40,
    study: Annotated[
        Path | None, typer.Option(help="File that keeps the trials; an interrupted search goes on from it.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the tables for agentsys.toml here, if held-out traces confirm them.")
    ] = None,
    training: TrainingOption = None,
    held_out: HeldOutOption = None,
    workflows: WorkflowsOption = 200,
    load: LoadOption = 0.8,
    scale: ScaleOption = 5.0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Search the scheduler's parameters on simulated training traces; tell what they are worth on held-out ones."""
    with reported_errors(as_json=as_json):
        from agentsys.serving.simulator.cluster import HETEROGENEOUS
        from agentsys.serving.simulator.contenders import learn
        from agentsys.serving.simulator.search import needed
        from agentsys.serving.simulator.tuning import Parameters
        from agentsys.serving.simulator.tuning import tune as search

        check_file("--study", study)
        check_file("--output", output)
        first, second = _traces(training, held_out, workflows, load)
        learned = learn(first[0], HETEROGENEOUS)
        with _progress("trials", trials) as told:
            found, trained = search(
                first,
                HETEROGENEOUS,
                learned,
                scale=scale,
                trials=trials,
                seed=seed,
                study_file=study,
                after=lambda number, value, best: told(number + 1, f"trial {number + 1}: {value:.3g}, best {best:.3g}"),
            )
        before, after = (needed(one.contender(learned), second, HETEROGENEOUS, scale) for one in (Parameters(), found))
        if output is not None and after < before:
            output.write_text(found.toml(), encoding="utf-8")
    report = {"training": trained, "held_out_defaults": before, "held_out_tuned": after, "accepted": after < before}
    if as_json:
        print_json({**report, "toml": found.toml()})
        return
    print_table(
        ["traces", "parameters", "scale needed by 95 %"],
        [["training", "tuned", trained], ["held out", "defaults", before], ["held out", "tuned", after]],
    )
    if after >= before:
        err.print("On held-out traces the tuned parameters are no better: keep the defaults.", highlight=False)
    else:
        out.print(found.toml(), highlight=False, markup=False)


def evolve(
    generations: Annotated[int, typer.Option(min=1, help="Generations, in all.")] = 10,
    children: Annotated[int, typer.Option(min=1, help="Proposals of each generation.")] = 6,
    state: Annotated[
        Path | None, typer.Option(help="File that keeps the search; an interrupted one goes on from it.")
    ] = None,
    gate: Annotated[bool, typer.Option(help="Accept only what does no worse on the torch engine.")] = True,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model that the gate serves with; default: the configured one.", autocompletion=completed_source
        ),
    ] = None,
    proposer: Annotated[
        str | None,
        typer.Option(help="Model that writes half of the proposals; default: chance.", autocompletion=completed_spec),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Slots of each simulated replica.")] = 16,
    training: TrainingOption = None,
    held_out: HeldOutOption = None,
    workflows: WorkflowsOption = 120,
    load: LoadOption = 0.8,
    scale: ScaleOption = 5.0,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Rewrite the functions that order calls and choose replicas; held-out traces and a real engine decide."""
    with reported_errors(as_json=as_json):
        from agentsys.serving.simulator.cluster import HETEROGENEOUS
        from agentsys.serving.simulator.contenders import learn
        from agentsys.serving.simulator.evolution import Bench, Evolution
        from agentsys.serving.simulator.evolution import evolve as search

        check_file("--state", state)
        first, second = _traces(training, held_out, workflows, load)
        bench = Bench(HETEROGENEOUS, learn(first[0], HETEROGENEOUS), slots, scale)
        belongs_to = bench.identity(first, seed=seed, children=children, proposer=proposer or "chance")
        known = state is not None and state.exists()
        began = Evolution.load(state, belongs_to) if state is not None and known else Evolution(seed, belongs_to)
        with _written_by(proposer) as author, _progress("generations", generations) as told:

            def after(now: Evolution) -> None:
                if state is not None:
                    now.save(state)
                told(now.generation, f"generation {now.generation}: best {now.population[0][0]:.3g}")

            best = search(began, bench, first, generations=generations, children=children, proposer=author, after=after)
        report = {**best.to_json(), "training": began.population[0][0]}
        if author is not None:
            report |= {"asked_of_the_model": author.asked, "policies_among_its_answers": author.usable}
        report |= _judge(bench, best, second, model if gate else "", gate=gate)
    if as_json:
        print_json(report)
    else:
        print_table(["", "value"], [[name.replace("_", " "), value] for name, value in report.items()])


def _written_by(proposer: str | None) -> AbstractContextManager[ModelProposer | None]:
    if proposer is None:
        return nullcontext()
    from agentsys.cli.proposing import model_proposer

    return model_proposer(proposer)


def _judge(
    bench: Bench, best: ExpressionPolicy, held_out: Sequence[Trace], model: str | None, *, gate: bool
) -> dict[str, Any]:
    """Compare with the policy in use: on traces that the search never saw, then on the real engine."""
    from agentsys.serving.simulator.evolution import first_policy

    before, after = (bench.score(policy, held_out) for policy in (first_policy(), best))
    report: dict[str, Any] = {"held_out_before": before, "held_out_after": after, "accepted": after < before}
    if gate and after < before:
        from agentsys.serving.simulator.live import gate as run_gate
        from agentsys.serving.simulator.live import on_torch
        from agentsys.serving.simulator.workload import WorkloadSpec, generate
        from agentsys.serving.weights.pull import pull
        from agentsys.settings import load_settings

        folder = pull(model or load_settings().settings.default_specs[0])
        small = generate(
            WorkloadSpec(workflows=10, rate=4.0, length_scale=0.06, tool_scale=0.2, most_tokens=256, seed=77)
        )
        with _progress("runs on the torch engine", GATE_RUNS) as told:
            done = iter(range(1, GATE_RUNS + 1))
            passed = run_gate(
                on_torch(folder, small, GATE_TOKEN_SECONDS),
                first_policy(),
                best,
                lambda: told(next(done), "runs on the torch engine"),
            )
        report |= {"gate_before": passed.before, "gate_after": passed.after, "accepted": passed.passed}
    return report


def _traces(
    training: Sequence[Path] | None, held_out: Sequence[Path] | None, workflows: int, load: float
) -> tuple[list[Trace], list[Trace]]:
    from agentsys.serving.simulator.cluster import HETEROGENEOUS
    from agentsys.serving.simulator.slo import capacity
    from agentsys.serving.simulator.trace import Trace
    from agentsys.serving.simulator.workload import WorkloadSpec, generate

    def given(files: Sequence[Path] | None, seeds: Sequence[int]) -> list[Trace]:
        if files:
            return [Trace.load(file) for file in files]
        rate = load * capacity(HETEROGENEOUS, CAPACITY_SLOTS, workflows=workflows)
        return [generate(WorkloadSpec(workflows, rate, seed=seed)) for seed in seeds]

    return given(training, TRAINING_SEEDS), given(held_out, HELD_OUT_SEEDS)


@contextmanager
def _progress(what: str, total: int) -> Iterator[Any]:
    """Show a bar on stderr; yields what is told how far it got, and in which words."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, words: bar.update(task, completed=done, description=words)
