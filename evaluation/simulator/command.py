"""``propius simulate``: policies compared on a trace of devices, in virtual time."""

from __future__ import annotations

import json
from collections.abc import Sequence

import typer

from evaluation.files import replacing
from evaluation.simulator.arguments import (
    STALLED_DAYS,
    BaseOption,
    DrawOption,
    JobsOption,
    NumberOption,
    OutOption,
    PolicyOption,
    RepeatOption,
    ScaleOption,
    SeedsOption,
    SemanticsOption,
    StalledOption,
    TasksOption,
    TraceOption,
    check_out,
    load_trace,
    parse_draws,
    parse_options,
    parse_scale,
    parse_seeds,
    parse_semantics,
    refusals,
    rounds_bar,
    stalled_s,
    wide_console,
)
from evaluation.simulator.draws import scope
from evaluation.simulator.grid import TASKS_PER_SESSION, Grid, run_grid
from evaluation.simulator.results import PolicySummary, summarize
from evaluation.simulator.tables import as_json, comparison_table, parts_table
from evaluation.simulator.workloads import load_jobs
from propius.cli.options import JsonOption
from propius.errors import PropiusError

__all__ = ["app", "simulate"]

app = typer.Typer(add_completion=False)


@app.command()
def simulate(
    clients: TraceOption,
    jobs: JobsOption = "even",
    policy: PolicyOption = None,
    seeds: SeedsOption = "1",
    draw: DrawOption = None,
    semantics: SemanticsOption = "propius",
    repeat: RepeatOption = 0,
    tasks_per_session: TasksOption = TASKS_PER_SESSION,
    scale: ScaleOption = "small",
    stalled_days: StalledOption = STALLED_DAYS,
    option: NumberOption = None,
    base: BaseOption = "",
    as_json_: JsonOption = False,
    out: OutOption = None,
) -> None:
    """Compare scheduling policies on a trace of devices, in virtual time.

    Every policy runs with every seed. A seed changes the draws of a run: latencies, a policy's own
    draws, and what --draw names. The same seed gives the same figures, on any machine.

    Example: propius trace generate --preset small --out clients.csv.gz
    then:    propius simulate --clients clients.csv.gz --jobs even --policy random --policy irs
             --seeds 1-5
    """
    with refusals():
        check_out(out)
        policies = list(dict.fromkeys(policy or ["random", "irs"]))
        chosen = _base(base, policies)
        listed = load_jobs(jobs, parse_scale(scale))
        grid = Grid(
            jobs=listed,
            policies=policies,
            seeds=parse_seeds(seeds),
            draws=parse_draws(draw or []),
            semantics=parse_semantics(semantics),
            repeat=repeat or None,
            policy_options=parse_options(option or []),
            tasks_per_session=tasks_per_session,
            stalled_s=stalled_s(stalled_days),
        )
        trace = load_trace(clients, listed)
        with rounds_bar(grid, quiet=as_json_) as told:
            runs = run_grid(trace, grid, progress=told)
        summaries = summarize(runs, chosen)
        document = json.dumps(as_json(runs, summaries, grid, chosen), indent=1)
        if out is not None:
            with replacing(out) as draft:
                draft.write_text(document + "\n")
    if as_json_:
        typer.echo(document)
        return
    title = (
        f"{jobs} on {clients.name}, {semantics} semantics; drawn by each seed: "
        f"{', '.join(grid.draws)}; n = {len(grid.seeds)} (seeds {seeds})"
    )
    _show(summaries, chosen, title, scope(grid.draws))


def _base(asked: str, policies: Sequence[str]) -> str:
    """The policy that the others are compared with."""
    if asked and asked not in policies:
        raise PropiusError(f"--base {asked}: not among the policies that run: {policies}")
    return asked or ("random" if "random" in policies else policies[0])


def _show(summaries: Sequence[PolicySummary], base: str, title: str, covered: str) -> None:
    console = wide_console()
    console.print(comparison_table(summaries, base, title))
    console.print(covered, highlight=False)
    if any(summary.parts_s for summary in summaries):
        console.print(parts_table(summaries))
    if any(summary.finished < summary.jobs for summary in summaries):
        console.print(
            "Not every job finished before the trace ended: averages are over those that did. "
            "Raise --repeat."
        )
