"""A real job manager on a disk that is full: it stays up, says so, and goes on when there is room.

The disk is a small tmpfs where the tests may mount one, and else a limit on the size of files.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest
import zmq

from propius import Job
from propius.cli.status import get, run_info
from propius.messages import Error, ErrorCode, Header, Heartbeat, Message, decode_payload, encode
from propius.shell.event_log import read_events
from tests.daemons.test_processes import Site, until

DISK_BYTES: Final = 2 << 20
PIECE: Final = bytes(4_096)
JM: Final = "job_manager"


class Disk:
    """A folder whose file system can be filled up and freed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        mount = [shutil.which("mount") or "false", "-t", "tmpfs", "-o", f"size={DISK_BYTES}"]
        made = subprocess.run(
            [*mount, "propius-test", str(folder)], check=False, capture_output=True
        )
        self.is_mounted = made.returncode == 0
        self._ballast = folder / "ballast"

    def fill(self, pid: int) -> None:
        """Nothing can be written any more."""
        if not self.is_mounted:
            (wal,) = (self.folder / "state").rglob("*-wal")
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (wal.stat().st_size, hard))
            return
        with self._ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(PIECE)
            except OSError:
                pass

    def free(self, pid: int) -> None:
        """There is room again."""
        if self.is_mounted:
            self._ballast.unlink()
        else:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    def close(self) -> None:
        """Give it back."""
        if self.is_mounted:
            subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """An empty small disk."""
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.close()


@pytest.fixture
def site(disk: Disk) -> Iterator[Site]:
    """A job manager with its state and its event log on the disk, and the scheduler it needs."""
    site = Site(disk.folder, {"event_log": {"directory": str(disk.folder / "events")}})
    site.start("scheduler")
    site.start(JM)
    site.wait(JM, "ready")
    yield site
    site.end()


def endpoint(site: Site) -> str:
    """Where job servers find the job manager."""
    return str(run_info(site.state, JM)["endpoints"]["jobs"])


def job(site: Site, timeout_s: float = 60.0) -> Job:
    """A job server."""
    return Job(endpoint(site), name="j", requirement={}, demand=1, timeout_s=timeout_s)


def ask(site: Site, message: Message) -> Message:
    """One request without the SDK's patience, and its answer."""
    header = Header(kind=message.kind, sender="stranger", session=1, request=1)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(endpoint(site))
        socket.send_multipart(encode(header, message))
        assert socket.poll(30_000)
        answer = socket.recv_multipart()
    return decode_payload("error", answer[1])


def metric(site: Site, name: str) -> float:
    """A figure of the job manager's."""
    _, page = get(run_info(site.state, JM)["admin"], "/metrics", bytes_max=1 << 20)
    values = [line.split()[-1] for line in page.splitlines() if line.startswith(f"{name}{{")]
    return float(values[0]) if values else 0.0


def events_said(process: subprocess.Popen[str]) -> list[str]:
    """What a process that ended had logged."""
    assert process.stderr is not None
    return [json.loads(line)["event"] for line in process.stderr if line.startswith("{")]


def stopped(process: subprocess.Popen[str]) -> int:
    """End a process in good order; its exit code."""
    process.send_signal(signal.SIGTERM)
    return process.wait(30)


def ending_on_a_full_disk(
    site: Site, disk: Disk, process: subprocess.Popen[str], mine: Job, pool: ThreadPoolExecutor
) -> tuple[Future[None], str]:
    """Open round 0, fill the disk, end the round: what is still under way, and why not ready."""
    mine.start_request(1)
    disk.fill(process.pid)
    ending = pool.submit(mine.end_request, 0)
    return ending, site.wait(JM, "not ready")


def test_a_full_disk_is_survived(site: Site, disk: Disk) -> None:
    """Not ready with the reason, `busy` with a time, then all by itself again; nothing is lost."""
    process = site.processes[1]
    with job(site) as mine, ThreadPoolExecutor() as pool:
        ending, why = ending_on_a_full_disk(site, disk, process, mine, pool)
        assert "the store does not take commits" in why
        assert ("full" if disk.is_mounted else "I/O") in why
        refused = ask(site, Heartbeat(job=mine.id, secret=mine.secret))
        assert isinstance(refused, Error)
        assert refused.code is ErrorCode.BUSY
        assert 0 < refused.retry_after_s <= 5
        assert get(run_info(site.state, JM)["admin"], "/livez")[0] == 200
        assert not ending.done()
        disk.free(process.pid)
        ending.result(60)
        site.wait(JM, "ready")
        assert mine.start_request(1) == 1
        # Killed now, it comes back with all that it had said.
        process.kill()
        again = site.start(JM)
        site.wait(JM, "ready")
        assert mine.show().round == 1
    assert stopped(again) == 0
    said = events_said(process)
    assert (said.count("commit_failed"), said.count("store_recovered")) == (1, 1)


def test_the_event_log_gives_up_alone(site: Site, disk: Disk) -> None:
    """It closes, once and for all, with a line and a figure; the job manager decides on."""
    process = site.processes[1]
    with job(site) as mine, ThreadPoolExecutor() as pool:
        ending, _ = ending_on_a_full_disk(site, disk, process, mine, pool)
        disk.free(process.pid)
        ending.result(60)
        site.wait(JM, "ready")
        for number in range(1, 4):
            assert mine.start_request(1) == number
            mine.end_request(number)
    until(lambda: metric(site, "propius_event_log_failures_total") in (0, 1), "figure")
    closed = metric(site, "propius_event_log_failures_total")
    assert stopped(process) == 0
    assert events_said(process).count("event_log_closed") == closed
    assert list(read_events(disk.folder / "events" / JM))  # and what is there can be read


def test_started_on_a_full_disk(site: Site, disk: Disk) -> None:
    """It is there, not ready, with its state in memory; with room it goes on."""
    with job(site) as mine:
        mine.start_request(1)
        site.processes[1].kill()
        site.processes[1].wait()
        disk.fill(os.getpid())  # a limit is inherited
        process = site.start(JM)
        if not disk.is_mounted:
            disk.free(os.getpid())
        until(lambda: "the store does not" in site.wait(JM, "not ready"), "the full disk")
        disk.free(process.pid)
        site.wait(JM, "ready")
        assert mine.show().round == 0
    assert stopped(process) == 0


def test_sigterm_on_a_full_disk(site: Site, disk: Disk) -> None:
    """What cannot be written does not hold up the end for longer than the drain may take."""
    process = site.processes[1]
    with job(site) as mine, ThreadPoolExecutor() as pool:
        ending, _ = ending_on_a_full_disk(site, disk, process, mine, pool)
        assert stopped(process) == 0
        disk.free(site.processes[0].pid)
        site.start(JM)
        ending.result(60)  # asked again, under the same number
        assert mine.show().round == 0
