"""``propius demo``: start everything, watch it, and say what came of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.live import Live

from evaluation.children import Children, terminated_is_interrupted
from evaluation.demo.devices import DeviceSettings
from evaluation.demo.job_server import JobSettings
from evaluation.demo.jobs import DEMO_JOBS
from evaluation.demo.progress import Progress, read_progress
from evaluation.demo.scoreboard import Scoreboard, live_table, plain_line
from evaluation.demo.summary import ACCURACY_MIN, results, results_table, write_summary
from evaluation.figure import draw_demo
from propius.cli.cluster import Cluster, supervisor_pid
from propius.cli.failure import fail
from propius.engine import POLICIES
from propius.errors import PropiusError
from propius.shell import exit_codes

__all__ = ["app", "demo"]

MANAGERS: Final = 2
LEASE_S: Final = 8.0
"""Long enough for most phones; the slowest lose their lease and their slot is offered again."""
LEASE_GRACE_S: Final = 5.0
"""What a lease keeps if the job manager is restarted in the middle of the demo."""
SPEED_UP: Final = 60.0
READY_TIMEOUT_S: Final = 30.0
MARKER: Final = ".propius-demo"
"""In the folder of results: what is in it may be replaced by the next run."""
PLAIN_EVERY_S: Final = 5.0
PLAIN_WIDTH: Final = 110
"""Of tables that go to a file or a pipe."""
CLIENTS_MIN: Final = 100
CLIENTS_MAX: Final = 1_400
"""The digits have 1,437 training images, and every client needs one."""

app = typer.Typer(add_completion=False)


class DemoFailedError(Exception):
    """The demo cannot go on; one line says why."""


@app.command()
def demo(
    policy: Annotated[str, typer.Option(help=f"Scheduling policy: {', '.join(POLICIES)}.")] = "irs",
    clients: Annotated[
        int, typer.Option(min=CLIENTS_MIN, max=CLIENTS_MAX, help="Simulated devices.")
    ] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of devices, data and policy.")] = 0,
    out: Annotated[Path, typer.Option(help="Where results go; a run before is replaced.")] = Path(
        "out/demo"
    ),
    timeout_s: Annotated[float, typer.Option(min=1, help="Give up after this long.")] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Run a whole Propius on this machine: three jobs train on devices that it hands them.

    Daemons run under supervisord on free ports; nothing is left running. Results: a table,
    summary.json, a figure and the event log, all named in the last lines.
    """
    if policy not in POLICIES:
        text = f"demo: unknown policy {policy!r}; use {', '.join(POLICIES)}"
        fail(text, exit_codes.CONFIGURATION)
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=PLAIN_WIDTH)
    run = DemoRun(policy, clients, seed, out, timeout_s, console)
    try:
        rows = run.run()
    except (DemoFailedError, PropiusError) as failure:
        fail(f"demo: {failure}")
    except KeyboardInterrupt:
        fail("demo: interrupted; everything was stopped", 130)
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    low = [row["name"] for row in rows if row["final_accuracy"] < ACCURACY_MIN]
    if low:
        fail(f"demo: accuracy below {ACCURACY_MIN}: {', '.join(low)}")


class DemoRun:
    """One run, from an empty directory to its results."""

    def __init__(
        self,
        policy: str,
        clients: int,
        seed: int,
        out: Path,
        timeout_s: float,
        console: Console,
    ) -> None:
        self.policy, self.clients, self.seed = policy, clients, seed
        self.out, self.timeout_s, self.console = out, timeout_s, console
        self.start_ns = time.monotonic_ns()
        self.board = Scoreboard(DEMO_JOBS)
        self.title = f"Propius demo: policy {policy}, {clients} devices, seed {seed}"

    def run(self) -> list[dict[str, Any]]:
        """Run to the end; raises DemoFailedError when it cannot."""
        with terminated_is_interrupted(), self.system() as cluster:
            self.say(f"daemons ready after {self.elapsed_s():.1f} s; starting jobs and devices")
            with Children(self.out / "logs", read_progress) as children:
                self.start_children(children, cluster)
                self.watch(children)
        return self.conclude()

    def system(self) -> Cluster:
        """The daemons, under supervisord, in a directory of the run's own."""
        prepare(self.out)
        return Cluster(
            self.out / "system",
            managers=MANAGERS,
            overrides={
                "scheduler": {"policy": self.policy, "seed": self.seed},
                "job_manager": {"lease_default_s": LEASE_S, "lease_grace_s": LEASE_GRACE_S},
                "event_log": {"directory": str((self.out / "events").absolute())},
            },
            ready_timeout_s=READY_TIMEOUT_S,
        )

    def start_children(self, children: Children[Progress], cluster: Cluster) -> None:
        """Start one process per job and one for all devices."""
        for job in DEMO_JOBS:
            settings = JobSettings(
                job=job,
                endpoint=cluster.endpoint("job_manager", "jobs"),
                clients=self.clients,
                seed=self.seed,
                start_ns=self.start_ns,
                lease_s=LEASE_S,
            )
            children.start(f"job-{job.name}", "evaluation.demo.job_server", settings)
        fleet = DeviceSettings(
            endpoint=cluster.endpoint("load_balancer", "clients"),
            clients=self.clients,
            seed=self.seed,
            start_ns=self.start_ns,
            speed_up=SPEED_UP,
        )
        children.start("devices", "evaluation.demo.devices", fleet)

    def watch(self, children: Children[Progress]) -> None:
        """Show progress until every job is done."""
        with self.display() as show:
            while not self.board.finished:
                progress = children.hear(timeout_s=0.25)
                if progress is not None:
                    self.board.take(progress)
                show()
                if progress is None and (failures := children.failures()):
                    raise DemoFailedError(failures[0])
                if self.elapsed_s() > self.timeout_s:
                    raise DemoFailedError(
                        f"not finished after {self.timeout_s:g} s; logs in {self.out}"
                    )

    @contextmanager
    def display(self) -> Iterator[Any]:
        """A live table on a terminal, a line every few seconds elsewhere."""
        if self.console.is_terminal:
            # Drawn at its own pace, not for each line that a child says.
            with Live(
                console=self.console,
                refresh_per_second=5,
                get_renderable=lambda: live_table(self.board, title=self.title),
            ):
                yield lambda: None
            return
        self.say(self.title)
        last_s = self.elapsed_s()

        def show() -> None:
            nonlocal last_s
            if self.elapsed_s() - last_s >= PLAIN_EVERY_S:
                last_s = self.elapsed_s()
                self.say(plain_line(self.board, t_s=last_s))

        yield show

    def conclude(self) -> list[dict[str, Any]]:
        """Write and print the results, and check the event log."""
        rows = results(self.board)
        write_summary(self.out / "summary.json", rows)
        self.draw(rows)
        self.console.print(results_table(rows, title=self.title))
        self.say(f"event log: {verified(self.out / 'events')}")
        self.say(f"took {self.elapsed_s():.1f} s")
        for label, name in (
            ("summary", "summary.json"),
            ("figure", "figure.png"),
            ("figure (vector)", "figure.svg"),
            ("event log", "events"),
        ):
            self.say(f"{label}: {self.out / name}")
        return rows

    def draw(self, rows: list[dict[str, Any]]) -> None:
        """The figure; its time starts with the first round."""
        from_s, jobs = self.board.started_s, self.board.jobs
        draw_demo(
            rows,
            {
                name: [(point[0] - from_s, *point[1:]) for point in score.accuracy_series]
                for name, score in jobs.items()
            },
            path_svg=self.out / "figure.svg",
            path_png=self.out / "figure.png",
            held={
                name: [(t_s - from_s, held) for t_s, held in score.held_series]
                for name, score in jobs.items()
            },
            target=ACCURACY_MIN,
        )

    def say(self, line: str) -> None:
        """One plain line for the person."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return (time.monotonic_ns() - self.start_ns) / 1e9


def prepare(out: Path) -> None:
    """Make the folder, or clear it of a run before; raises DemoFailedError if it is not ours."""
    out.mkdir(parents=True, exist_ok=True)
    marker = out / MARKER
    if any(out.iterdir()) and not marker.exists():
        raise DemoFailedError(f"{out} is neither empty nor a demo's; choose another with --out")
    if supervisor_pid(out / "system"):
        raise DemoFailedError(f"a demo runs in {out} already; choose another folder with --out")
    marker.touch()
    for name in ("system", "events", "logs"):
        shutil.rmtree(out / name, ignore_errors=True)


def verified(events: Path) -> str:
    """What ``propius log verify`` says of the run; raises DemoFailedError on a violation."""
    command = [sys.executable, "-m", "propius.cli", "log", "verify", str(events)]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    said = (outcome.stdout + outcome.stderr).strip()
    if outcome.returncode != 0:
        raise DemoFailedError(f"the event log shows a violation:\n{said}")
    return said
