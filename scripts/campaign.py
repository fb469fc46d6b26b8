"""Real daemons, job servers and devices under faults from a seed, for as long as you like.

``python scripts/campaign.py --faults 100 --seed 7`` strikes a hundred times, checks the histories,
and prints what was tried; exit code 1 if something was found (the folder is then kept).
``--recovery`` measures instead how long a killed daemon, a fleet and a full store take to be back.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests/ is not installed

from rich.console import Console
from rich.table import Table

from tests.campaign import recovery
from tests.campaign.nemesis import Struck
from tests.campaign.run import Campaign, Outcome
from tests.campaign.site import CampaignError

VIOLATIONS_SHOWN = 20


def struck_table(struck: list[Struck]) -> Table:
    """How often each target met each kind of fault, and the slowest recovery from it."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for each in struck:
        times[each.fault.kind, each.fault.target].append(each.recovered_s)
    table = Table("fault", "target", "times", "slowest recovery", title_justify="left")
    for (kind, target), recovered in sorted(times.items()):
        table.add_row(kind, target, str(len(recovered)), f"{max(recovered):.2f} s")
    return table


def print_outcome(console: Console, outcome: Outcome) -> None:
    """The summary of a campaign."""
    console.print(struck_table(outcome.struck))
    for title, counter in (
        ("acknowledged", outcome.acknowledged),
        ("refused", outcome.refused),
        ("unknown", outcome.unknown),
    ):
        said = ", ".join(f"{name} {number:,}" for name, number in counter.most_common())
        console.print(f"{title}: {said or 'none'}", highlight=False)
    console.print(f"the disk became full by: {outcome.disk}", highlight=False)
    for line in outcome.violations[:VIOLATIONS_SHOWN]:
        console.print(f"violation: {line}", style="red", markup=False, highlight=False)
    console.print(
        f"seed {outcome.seed}: {len(outcome.struck)} faults of {len(outcome.kinds)} kinds, "
        f"{outcome.acknowledged.total():,} requests acknowledged, "
        f"{len(outcome.violations)} violations; {outcome.took_s:.0f} s",
        highlight=False,
    )


def campaign(asked: argparse.Namespace, console: Console) -> int:
    """Run one campaign; the exit code."""
    folder = Path(asked.out or tempfile.mkdtemp(prefix="propius-campaign-"))
    one = Campaign(
        folder / "campaign",
        seed=asked.seed,
        faults=asked.faults,
        clients=asked.clients,
        say=lambda text: console.print(text, highlight=False),
    )
    try:
        outcome = one.run()
    except CampaignError as error:
        console.print(f"seed {asked.seed}: {error} (see {folder})", style="red", markup=False)
        return 1
    print_outcome(console, outcome)
    if outcome.violations:
        console.print(f"histories and logs: {folder}", highlight=False)
        return 1
    if not asked.out:
        shutil.rmtree(folder)
    return 0


def measure(asked: argparse.Namespace, console: Console) -> int:
    """Measure recovery times; the exit code."""
    with tempfile.TemporaryDirectory(prefix="propius-recovery-") as folder:
        figures = recovery.measure_all(
            Path(folder),
            kills=asked.kills,
            say=lambda text: console.print(text, highlight=False) if not asked.json else None,
        )
    hurry = round(recovery.hurry(), 1)
    if asked.json:
        machine = {"cpus": os.cpu_count(), "load": os.getloadavg(), "start_stretched": hurry}
        rows = [recovery.to_json(figure) for figure in figures]
        print(json.dumps({**machine, "figures": rows}))
        return 0
    table = Table("what", "times", "median", "p99", "slowest", "limit")
    for figure in figures:
        limit = f"{figure.limit_s:g} s" if figure.limit_s else ""
        table.add_row(
            figure.what,
            str(len(figure.seconds)),
            *(f"{value:.2f} s" for value in (figure.median_s, figure.p99_s, figure.slowest_s)),
            limit,
        )
    console.print(table)
    loads = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    said = f"a daemon's start now takes {hurry} times as long as on an idle machine"
    console.print(f"{os.cpu_count()} CPUs, load {loads}; {said}", highlight=False)
    return 0


def main() -> int:
    """Do what the options say; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=int, default=15)
    parser.add_argument("--clients", type=int, default=300, help="devices")
    parser.add_argument("--out", help="keep histories and logs in this folder")
    parser.add_argument("--recovery", action="store_true", help="measure recovery times instead")
    parser.add_argument("--kills", type=int, default=30, help="of each daemon, with --recovery")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    asked = parser.parse_args()
    console = Console()
    return measure(asked, console) if asked.recovery else campaign(asked, console)


if __name__ == "__main__":
    sys.exit(main())
