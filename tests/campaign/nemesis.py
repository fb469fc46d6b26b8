"""The nemesis: which faults, drawn from a seed, and how each is done and undone.

A fault is over when every daemon is ready and both outside links answer again; how long that took
after the last blow is the fault's recovery time. The next fault waits until devices have been
served since, so that each one hits a system at work. Not here: proxies and processes.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from tests.campaign.proxy import Proxy
from tests.campaign.site import DAEMONS, LINKS, Disk, Site, limit_files, until

HOLD_S: Final = (1.0, 4.0)
LIMIT_BYTES: Final = 4_096
KINDS: Final = {
    "kill": DAEMONS,
    "freeze": DAEMONS,
    "restart": DAEMONS,
    "cut": LINKS,
    "hold": LINKS,
    "half-close": LINKS,
    "disk-full": ("job_manager",),
    "file-limit": ("job_manager",),
}
OFTEN: Final = ("kill", "kill", "kill", "freeze", "restart", "cut", "hold", "half-close")


@dataclass(frozen=True)
class Fault:
    """One fault; ``hold_s`` is how long it lasts, where it lasts."""

    kind: str
    target: str
    hold_s: float

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"


@dataclass(frozen=True)
class Struck:
    """A fault that is over, and the seconds from its last blow until all was well."""

    fault: Fault
    recovered_s: float


def draw(seed: int, count: int) -> list[Fault]:
    """The faults of a seed: each kind once if there is room, the others drawn, in any order."""
    dice = Random(seed)
    kinds = [*KINDS, *(dice.choice(OFTEN) for _ in range(max(0, count - len(KINDS))))][:count]
    dice.shuffle(kinds)
    return [Fault(kind, dice.choice(KINDS[kind]), dice.uniform(*HOLD_S)) for kind in kinds]


class Nemesis:
    """Strikes a site."""

    def __init__(self, site: Site, proxies: Sequence[Proxy], disk: Disk) -> None:
        self.site = site
        self.disk = disk
        self._proxies = {proxy.name: proxy for proxy in proxies}

    def strike(self, fault: Fault) -> Struck:
        """Do it, undo it, and wait until all is well again."""
        acts: dict[str, Callable[[Fault], None]] = {
            "kill": self._kill,
            "freeze": self._freeze,
            "restart": self._restart,
            "disk-full": self._disk_full if self.disk.is_mounted else self._file_limit,
            "file-limit": self._file_limit,
        }
        acts.get(fault.kind, self._disturb)(fault)
        struck_s = time.monotonic()
        self.site.wait_ready()
        return Struck(fault, time.monotonic() - struck_s)

    def _kill(self, fault: Fault) -> None:
        self.site.kill(fault.target)
        self.site.start(fault.target)

    def _restart(self, fault: Fault) -> None:
        self.site.stop(fault.target)
        self.site.start(fault.target)

    def _freeze(self, fault: Fault) -> None:
        self.site.send(fault.target, signal.SIGSTOP)
        time.sleep(fault.hold_s)  # the fault itself
        self.site.send(fault.target, signal.SIGCONT)

    def _disturb(self, fault: Fault) -> None:
        """A link is cut, held or half-closed for a while."""
        proxy = self._proxies[fault.target]
        {"cut": proxy.cut, "hold": proxy.hold, "half-close": proxy.half_close}[fault.kind]()
        time.sleep(fault.hold_s)  # the fault itself
        proxy.heal()

    def _disk_full(self, fault: Fault) -> None:
        """The store's file system has no room: the job manager stays up, and says why.

        SQLite writes its log round and round in a file that it has made, and would not notice a
        full disk for long. So the disk is filled while the job manager restarts.
        """
        self.site.stop(fault.target)
        self.disk.fill()
        self.site.start(fault.target)
        try:
            self._without_store(fault)
        finally:
            self.disk.free()

    def _file_limit(self, fault: Fault) -> None:
        """The live job manager's writes fail, from one moment to the next."""
        pid = self.site.processes[fault.target].pid
        limit_files(pid, LIMIT_BYTES)
        try:
            self._without_store(fault)
        finally:
            limit_files(pid, -1)

    def _without_store(self, fault: Fault) -> None:
        until(self._cannot_write, "a job manager that complains of its store")
        time.sleep(fault.hold_s)  # the fault itself

    def _cannot_write(self) -> bool:
        now = self.site.status("job_manager")
        return now.state == "not ready" and "store" in now.why
