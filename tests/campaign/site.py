"""The real daemons of a campaign: started, killed, frozen, stopped; and the disk of their store.

Daemons are started by their console scripts, without a supervisor, so that the nemesis decides what
comes back and when. Client managers reach the job manager through proxies, and so do job servers
and devices reach the system. Not here: when what happens (:mod:`tests.campaign.nemesis`).
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import zmq

from propius.cli.cluster import free_ports
from propius.cli.status import DaemonStatus, status
from propius.config import config_yaml
from propius.messages import GetSchema, Header, encode

PATIENCE_S: Final = 40.0
LOOK_AGAIN_S: Final = 0.02
PROBE: Final = "0f" * 16  # no device of the campaign
PROBE_MS: Final = 250
MANAGERS: Final = 2
SERVERS: Final = ("scheduler", "job_manager", "load_balancer")
DAEMONS: Final = (*SERVERS, *(f"client_manager-{number}" for number in range(MANAGERS)))
BOUND: Final = ("jobs", "inside", "clients", "managers", "scheduler")
LINKS: Final = ("clients", "jobs", *(f"manager-{number}" for number in range(MANAGERS)))
DISK_BYTES: Final = 32 << 20
ROOM_BYTES: Final = 96 << 10  # left on a full disk: enough to start, not to go on for long


class CampaignError(Exception):
    """The campaign cannot go on: something did not happen in time, or a daemon died by itself."""


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for what other processes are about to do."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > deadline_s:
            raise CampaignError(f"{what}: not within {patience_s:g} s")
        time.sleep(LOOK_AGAIN_S)


class Disk:
    """Where the job manager's store is, and how it becomes full.

    A file system in memory of its own if this user may mount one; else the size of files is limited
    for the live process, which gives the same errors from ``write``.
    """

    def __init__(self, folder: Path, *, may_mount: bool = True) -> None:
        self.folder = folder
        self.is_mounted = False
        self._ballast = folder / "ballast"
        folder.mkdir()
        if may_mount:
            self._mount()

    @property
    def name(self) -> str:
        """How it becomes full, in words."""
        return "small tmpfs" if self.is_mounted else "limit of file sizes"

    def fill(self) -> None:
        """Leave only a little room."""
        free = os.statvfs(self.folder)
        left = free.f_bavail * free.f_frsize - ROOM_BYTES
        self._ballast.write_bytes(bytes(max(0, left)))

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        """Take the file system away again."""
        if self.is_mounted:
            subprocess.run(["umount", self.folder], check=True)

    def _mount(self) -> None:
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "propius-campaign"]
        try:
            done = subprocess.run([*command, str(self.folder)], capture_output=True, check=False)
            self.is_mounted = done.returncode == 0
        except OSError:
            pass  # there is no such program


def limit_files(pid: int, size_bytes: int) -> None:
    """Let a live process write no file beyond this size; -1: as it likes."""
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    soft = resource.RLIM_INFINITY if size_bytes < 0 else size_bytes
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


class Site:
    """A folder, the daemons on it, and their ports."""

    def __init__(self, folder: Path, store: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self.events = folder / "events"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.ports = dict(
            zip(
                (
                    "jobs",
                    "inside",
                    "clients",
                    "managers",
                    "scheduler",
                    *(f"via-{n}" for n in LINKS),
                ),
                free_ports(5 + len(LINKS)),
                strict=True,
            )
        )
        (folder / "logs").mkdir()
        self._write_config("config.yml", self.ports["inside"], store)
        for number in range(MANAGERS):
            port = self.ports[f"via-manager-{number}"]
            self._write_config(f"config-{number}.yml", port, store)

    def targets(self) -> dict[str, tuple[int, int]]:
        """Of each link that has a proxy: the port it listens on, and where it leads."""
        leads = {"clients": self.ports["clients"], "jobs": self.ports["jobs"]}
        return {
            name: (self.ports[f"via-{name}"], leads.get(name, self.ports["inside"]))
            for name in LINKS
        }

    def start(self, name: str) -> None:
        """Start a daemon; does not wait for anything."""
        daemon, _, number = name.partition("-")
        script = Path(sys.executable).with_name(f"propius-controller-{daemon.replace('_', '-')}")
        config = self.folder / (f"config-{number}.yml" if number else "config.yml")
        command = [str(script), *([number] if number else []), "--config", str(config)]
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )

    def send(self, name: str, number: int) -> None:
        """Send a daemon a signal."""
        self.processes[name].send_signal(number)

    def kill(self, name: str) -> None:
        """kill -9, and wait until it is dead."""
        self.processes[name].kill()
        self.processes[name].wait(PATIENCE_S)

    def stop(self, name: str) -> None:
        """Stop it in good order."""
        self.send(name, signal.SIGTERM)
        code = self.processes[name].wait(PATIENCE_S)
        if code != 0:
            raise CampaignError(f"{name} was told to stop, and ended with exit code {code}")

    def status(self, name: str) -> DaemonStatus:
        """What a daemon says of itself; raises CampaignError if it died by itself."""
        code = self.processes[name].poll()
        if code is not None:
            said = (self.folder / "logs" / f"{name}.log").read_text("utf-8", "replace")
            raise CampaignError(f"{name} ended by itself, exit code {code}: …{said[-2_000:]}")
        return status(self.state, name)

    def wait_ready(self) -> None:
        """Wait until every daemon can do its work, and both outside links answer."""
        for name in DAEMONS:
            until(lambda name=name: self.status(name).state == "ready", f"{name} ready")  # type: ignore[misc]
        for link in ("clients", "jobs"):
            until(lambda link=link: answers(self.ports[f"via-{link}"]), f"answer on {link}")  # type: ignore[misc]

    def end(self) -> None:
        """Kill what is left, also what is frozen."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait(PATIENCE_S)

    def _write_config(self, name: str, inside_port: int, store: Path) -> None:
        ports = self.ports
        values: dict[str, Any] = {
            "state_dir": str(self.state),
            "store": {"path": str(store)},
            "event_log": {"directory": str(self.events)},
            "job_manager": {
                "port": ports["jobs"],
                "inside_port": inside_port,
                "admin_port": 0,
                "lease_grace_s": 1,
            },
            "load_balancer": {
                "port": ports["clients"],
                "inside_port": ports["managers"],
                "admin_port": 0,
            },
            "scheduler": {"port": ports["scheduler"], "admin_port": 0},
            "client_manager": {"admin_port_base": 0, "offer_timeout_s": 3, "retry_max_s": 2},
        }
        (self.folder / name).write_text(config_yaml(values))


def listens(port: int) -> bool:
    """Whether somebody accepts connections on a port of this machine."""
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except ConnectionRefusedError:
        return False
    except OSError:
        return True
    return True


def answers(port: int) -> bool:
    """Whether a request on a fresh connection is answered at once."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket_:
        socket_.linger = 0
        socket_.connect(f"tcp://127.0.0.1:{port}")
        header = Header(kind=GetSchema.kind, sender=PROBE, session=1, request=1)
        socket_.send_multipart(encode(header, GetSchema()))
        return bool(socket_.poll(PROBE_MS))
