"""The large faults: crashes, freezes, partitions and the like, at random times until told to stop.

Not here: faults of single messages (:mod:`tests.simulation.network`).
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from tests.simulation.clock import MILLISECOND_NS, SECOND_NS
from tests.simulation.faults import Fault
from tests.simulation.host import Host, Surroundings
from tests.simulation.store import VirtualStore


class Mortal(Protocol):
    """A device or job server that can die and come back with a new session."""

    name: str

    def vanish(self) -> bool:
        """Die, and come back later; False if there is nothing to kill."""


class Nemesis:
    """Strikes at random times; :meth:`stop` repairs everything."""

    def __init__(
        self,
        around: Surroundings,
        hosts: Callable[[], list[Host]],
        store: VirtualStore,
        mortals: list[Mortal],
        reboot: Callable[[], None],
        *,
        pause_s: float,
        join: Callable[[], bool],
        leave: Callable[[], bool],
        twin: Callable[[], bool],
    ) -> None:
        self._around, self._all_hosts, self._store = around, hosts, store
        self._mortals, self._reboot = mortals, reboot
        self._join, self._leave, self._twin = join, leave, twin
        self._random: Random = around.faults.random
        self._pause_ns = int(pause_s * SECOND_NS)
        self._partitions: set[tuple[str, str]] = set()
        self._armed: Host | None = None  # dies the moment its next commit is durable
        self._kinds = [kind for kind, weight in around.faults.nemesis.items() if weight > 0]
        self._weights = [around.faults.nemesis[kind] for kind in self._kinds]
        if around.faults.active:
            self._strike_later()

    @property
    def _hosts(self) -> list[Host]:
        """All daemons there are now."""
        return self._all_hosts()

    def stop(self) -> None:
        """No more faults; all that is broken is repaired."""
        self._around.faults.active = False
        self._store.failing = self._store.slow = False
        self._armed = None
        for one, other in sorted(self._partitions):
            self._around.network.heal(one, other)
        self._partitions.clear()
        for host in self._hosts:
            host.thaw()
            host.start()

    def _strike_later(self) -> None:
        wait_ns = int(self._random.expovariate(1.0) * self._pause_ns)
        self._around.clock.after(max(wait_ns, MILLISECOND_NS), self._strike)

    def _strike(self) -> None:
        if not self._around.faults.active:
            return
        kind = self._random.choices(self._kinds, self._weights)[0]
        if self._do(kind):
            if kind not in {Fault.SLOW_COMMIT, Fault.FAILED_COMMIT}:  # the store counts those
                self._around.faults.struck(kind)
            self._around.trace.note(self._around.clock.now_ns, f"fault: {kind}")
        self._strike_later()

    def _do(self, kind: Fault) -> bool:
        match kind:
            case Fault.CUT:
                return self._cut()
            case Fault.PARTITION:
                return self._partition()
            case Fault.CRASH:
                # Many of them where it is hardest: in the process that has something to lose.
                keepers = [host for host in self._hosts if host.stores]
                choice = keepers if self._random.random() < 0.4 else self._hosts
                return self._crash(self._random.choice(choice))
            case Fault.FREEZE:
                return self._freeze(self._random.choice(self._hosts))
            case Fault.DRAIN:
                return self._drain(self._random.choice(self._hosts))
            case Fault.REBOOT:
                return self._random.random() < 0.3 and self._power_cycle()
            case Fault.VANISH:
                return self._random.choice(self._mortals).vanish()
            case Fault.JOIN:
                return self._random.random() < 0.5 and self._join()
            case Fault.LEAVE:
                return self._random.random() < 0.5 and self._leave()
            case Fault.TWIN:
                return self._random.random() < 0.5 and self._twin()
            case Fault.SLOW_COMMIT:
                self._store.slow = True
                self._around.clock.after(self._span_ns(4.0), setattr, self._store, "slow", False)
                return True
            case _:
                self._store.failing = True
                self._around.clock.after(self._span_ns(3.0), setattr, self._store, "failing", False)
                return True

    def _span_ns(self, most_s: float) -> int:
        return int(self._random.random() ** 2 * most_s * SECOND_NS) + MILLISECOND_NS

    def _cut(self) -> bool:
        links = self._around.network.dialled()
        if links:
            self._around.network.cut(*self._random.choice(links))
        return bool(links)

    def _partition(self) -> bool:
        one, other = sorted(host.name for host in self._random.sample(self._hosts, 2))
        if (one, other) in self._partitions:
            return False
        self._partitions.add((one, other))
        self._around.network.partition(one, other, cut=self._random.random() < 0.5)
        self._around.clock.after(self._span_ns(6.0), self._heal, one, other)
        return True

    def _heal(self, one: str, other: str) -> None:
        if (one, other) in self._partitions:
            self._partitions.discard((one, other))
            self._around.network.heal(one, other)

    def _crash(self, host: Host) -> bool:
        if host.core is None:
            return False
        if host.stores and self._random.random() < 0.4:
            self._armed = host  # between the commit and the news of it: the hardest instant
            return True
        self._kill(host)
        return True

    def _kill(self, host: Host) -> None:
        host.crash()
        self._around.clock.after(self._span_ns(4.0), host.start)

    def on_applied(self) -> None:
        """A commit became durable, and its daemon does not know it yet."""
        host, self._armed = self._armed, None
        if host is not None:
            self._kill(host)

    def _freeze(self, host: Host) -> bool:
        if host.core is None or host.frozen:
            return False
        host.freeze()
        self._around.clock.after(self._span_ns(8.0), host.thaw)
        return True

    def _drain(self, host: Host) -> bool:
        if host.core is None or host.frozen:
            return False
        wait_ns = self._span_ns(3.0)
        host.exited = lambda: self._around.clock.after(wait_ns, host.start)
        host.drain()
        self._around.clock.after(10 * SECOND_NS, host.stop_by_force)  # as supervisors do
        return True

    def _power_cycle(self) -> bool:
        for host in self._hosts:
            host.crash()
        self._reboot()
        for host in self._hosts:
            self._around.clock.after(self._span_ns(4.0), host.start)
        return True
