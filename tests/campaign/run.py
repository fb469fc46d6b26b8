"""A whole campaign: daemons, job servers, devices, faults; then the histories are judged.

::

    outcome = Campaign(folder, seed=7, faults=15).run()
    assert outcome.violations == []

Not here: recovery times under a supervisor (:mod:`tests.campaign.recovery`).
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from daemons.event_log_check import check as check_log
from daemons.job_manager import records
from daemons.store.sqlite import SqliteStore
from evaluation.replay import replay
from propius.job import Operator
from propius.messages import JobStatus
from tests.campaign.checker import Final as EndState
from tests.campaign.checker import StoredRound, check
from tests.campaign.history import Event, read_history
from tests.campaign.nemesis import Fault, Nemesis, Struck, draw
from tests.campaign.proxy import ProxyHost
from tests.campaign.site import DAEMONS, CampaignError, Disk, Site, listens, until

ROOT: Final = Path(__file__).resolve().parent.parent.parent
SERVED_BETWEEN: Final = 20  # acknowledged reports between two faults
END_S: Final = 90.0  # until everything is finished after the last fault


@dataclass
class Outcome:
    """What a campaign did, and what was found."""

    seed: int
    struck: list[Struck] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    acknowledged: Counter[str] = field(default_factory=Counter)  # by verb
    refused: Counter[str] = field(default_factory=Counter)  # by verb and code
    unknown: Counter[str] = field(default_factory=Counter)  # by verb
    log_counts: dict[str, int] = field(default_factory=dict)
    disk: str = ""  # how it was filled
    took_s: float = 0.0

    @property
    def kinds(self) -> set[str]:
        """The kinds of the faults that struck."""
        return {struck.fault.kind for struck in self.struck}

    def count(self, events: Sequence[Event]) -> None:
        """Count the answers."""
        for event in events:
            match event.phase:
                case "ok":
                    self.acknowledged[event.verb] += 1
                case "refused":
                    self.refused[f"{event.verb}: {event.code}"] += 1
                case "unknown":
                    self.unknown[event.verb] += 1


class Tail:
    """Counts the lines of a growing history that have this in them."""

    def __init__(self, path: Path, *marks: bytes) -> None:
        self._path = path
        self._marks = marks
        self._offset = 0
        self._rest = b""
        self._seen = 0

    def count(self) -> int:
        """How many there are by now."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        self._offset += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        self._seen += sum(all(mark in line for mark in self._marks) for line in lines)
        return self._seen


class Campaign:
    """One campaign in a folder that is empty or does not exist."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        faults: int = 15,
        clients: int = 300,
        jobs: int = 4,
        may_mount: bool = True,
        plan: Sequence[Fault] = (),
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.folder = folder
        self.seed = seed
        self.plan = list(plan) or draw(seed, faults)
        self.clients = clients
        self.jobs = jobs
        self.may_mount = may_mount
        self.say = say
        self.outcome = Outcome(seed)
        self.histories = [folder / "devices.jsonl", folder / "job_servers.jsonl"]

    def run(self) -> Outcome:
        """Do it all; raises CampaignError where something does not happen in time."""
        began_s = time.monotonic()
        self.folder.mkdir(parents=True, exist_ok=True)
        final = self._run()
        events = read_history(self.histories)
        self.outcome.count(events)
        self.outcome.violations += check(events, final)
        self.outcome.took_s = time.monotonic() - began_s
        return self.outcome

    def _run(self) -> EndState:
        with ExitStack() as stack:
            disk = Disk(self.folder / "disk", may_mount=self.may_mount)
            stack.callback(disk.close)
            self.outcome.disk = disk.name
            store = disk.folder / "propius.db"
            site = Site(self.folder, store)
            stack.callback(site.end)
            host = stack.enter_context(ProxyHost())
            for name, (port, target) in site.targets().items():
                host.proxy(name, port, target)
            for name in DAEMONS:
                site.start(name)
            site.wait_ready()
            self._under_faults(site, Nemesis(site, host.proxies, disk), stack)
            jobs = self._list_jobs(site)
            for name in reversed(DAEMONS):
                site.stop(name)
            final = read_store(store, jobs)
        self.outcome.violations += self._left(site)
        self.outcome.violations += self._logs(site)
        return final

    def _under_faults(self, site: Site, nemesis: Nemesis, stack: ExitStack) -> None:
        """Job servers and devices at work, while the nemesis strikes; until all is finished."""
        jobs = stack.enter_context(
            self._program("job_servers", "--jobs", self.jobs, site.ports["via-jobs"])
        )
        devices = stack.enter_context(
            self._program("devices", "--count", self.clients, site.ports["via-clients"])
        )
        served = Tail(self.histories[0], b'"phase":"ok"', b'"verb":"report"')
        for number, fault in enumerate(self.plan, start=1):
            self._wait_served(served)
            self.say(f"{number}/{len(self.plan)} {fault}")
            self.outcome.struck.append(nemesis.strike(fault))
            for program in (jobs, devices):
                if program.poll() is not None:
                    raise CampaignError(f"a program of the campaign ended: {program.args!r}")
        self._wait_served(served)
        self.say("no more faults; waiting until everything is finished")
        order(jobs)
        line = jobs.stdout.readline() if jobs.stdout is not None else b""
        if line != b"drained\n":
            raise CampaignError(f"the job servers said {line!r}, not that they are drained")
        for program in (devices, jobs):
            order(program)
            if program.wait(END_S) != 0:
                raise CampaignError(f"exit code {program.returncode} of {program.args!r}")

    def _wait_served(self, served: Tail) -> None:
        """Wait until devices have been served since."""
        enough = served.count() + SERVED_BETWEEN
        until(lambda: served.count() >= enough, f"{SERVED_BETWEEN} acknowledged reports")

    @contextmanager
    def _program(
        self, module: str, option: str, number: int, port: int
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A program of the campaign, killed at the end if it did not end by itself."""
        command = [sys.executable, "-m", f"tests.campaign.{module}"]
        command += ["--endpoint", f"tcp://127.0.0.1:{port}", option, str(number)]
        history = self.folder / f"{module}.jsonl"
        history.touch()
        command += ["--seed", str(self.seed), "--history", str(history)]
        with (self.folder / "logs" / f"{module}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, cwd=ROOT
            )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def _list_jobs(self, site: Site) -> list[JobStatus]:
        key = bytes.fromhex((site.state / "operator.key").read_text().strip())
        with Operator(f"tcp://127.0.0.1:{site.ports['jobs']}", key) as operator:
            return operator.list_jobs()

    def _left(self, site: Site) -> Iterator[str]:
        """Processes and ports that are left."""
        for name, port in site.ports.items():
            if listens(port):
                yield f"port {port} ({name}) is still open"
        for process in psutil.process_iter(["cmdline"]):
            if any(str(self.folder) in word for word in process.info["cmdline"] or ()):
                yield f"process {process.pid} is left: {process.info['cmdline']}"

    def _logs(self, site: Site) -> Iterator[str]:
        """What programs complain of, and what their event logs tell."""
        for path in sorted((self.folder / "logs").glob("*.log")):
            if "Traceback" in path.read_text("utf-8", "replace"):
                yield f"{path.name} has a traceback"
        report = check_log(site.events)
        self.outcome.log_counts = dict(report.counts)
        for violation in report.violations:
            yield f"propius log verify: {violation}"
        for daemon in replay(site.events).daemons:
            for difference in daemon.differences:
                yield f"propius replay: {daemon.daemon}: {difference}"


def order(program: subprocess.Popen[bytes]) -> None:
    """Send a program its next order: one line."""
    assert program.stdin is not None
    program.stdin.write(b"\n")
    program.stdin.flush()


def read_store(path: Path, jobs: Sequence[JobStatus]) -> EndState:
    """The final state: what the operator was told, and what is in the file."""
    store = SqliteStore(path)
    try:
        tables = store.load()
    finally:
        store.close()
    stored_jobs: dict[int, str] = {}
    stored_rounds: dict[tuple[int, int], StoredRound] = {}
    for key, value in tables.get(records.Job.table, {}).items():
        job = records.decode(records.Job, key, value)
        stored_jobs[job.job] = str(job.state)
    for key, value in tables.get(records.Round.table, {}).items():
        round_ = records.decode(records.Round, key, value)
        stored_rounds[round_.job, round_.round] = StoredRound(
            state=str(round_.state),
            version=round_.version,
            demand=round_.demand,
            completed=round_.completed,
            failed=round_.failed,
            expired=round_.expired,
        )
    return EndState(jobs, stored_jobs, stored_rounds)
