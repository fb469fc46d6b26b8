"""The loop of every daemon: wait, drain, decide, commit, send. Nothing else may touch the core.

One turn: wait until a socket is readable, a commit came back, somebody asked to stop, or a timer is
due; hand the core everything that is there; let it flush; carry out its effects in order. The rules
between loop and core are in :mod:`propius.core`.

:func:`run` opens the sockets and threads and runs the loop to its end; :class:`Loop` is the loop
alone, for whoever brings sockets along. Not here: configuration and process set-up
(:mod:`propius.shell.program`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Final

import zmq

from propius.core import SECOND_NS, Commit, Core, Effect, Record, Say, Send
from propius.shell.event_log import EventLogWriter
from propius.shell.exit_codes import CONFIGURATION, OK, StartError
from propius.shell.health import Health, LinkStats, Metrics
from propius.shell.light import without
from propius.shell.notify import Notifier
from propius.shell.socket import Binding, ConnectionMonitor, LinkSocket, open_socket
from propius.shell.wake import Shutdown, Wake
from propius.shell.writer import BACKLOG_MAX, Committed, CommitWriter, Store

with without("rich"):
    import structlog

TURN_NS: Final = SECOND_NS  # the loop turns at least so often, so that a hang shows
PUBLISH_NS: Final = SECOND_NS // 10
COMPLAIN_NS: Final = SECOND_NS  # counts of refused input are logged at most so often
DRAIN_NS: Final = 5 * SECOND_NS  # after SIGTERM
LAST_WORDS_NS: Final = SECOND_NS // 2  # of these, for messages that their peers do not take
LINGER_MS: Final = 500  # for the last replies
EFFECT_PASSES_MAX: Final = 10  # undelivered messages make the core say more, and so on


@dataclass(slots=True)
class Surroundings:
    """What a loop works with besides core and sockets; the defaults are for tests."""

    wake: Wake
    shutdown: Shutdown
    health: Health
    metrics: Metrics
    writer: CommitWriter | None = None
    event_log: EventLogWriter | None = None
    notifier: Notifier = field(default_factory=lambda: Notifier({}))
    log: Any = field(default_factory=structlog.get_logger)
    clock: Callable[[], int] = time.monotonic_ns
    extra_counters: Callable[[], dict[str, int]] = dict
    chores: Callable[[int], None] = lambda _now_ns: None  # called about ten times a second


class Loop:
    """The loop over one core and its links."""

    def __init__(
        self,
        core: Core,
        links: Mapping[str, LinkSocket],
        around: Surroundings,
        monitors: Mapping[str, ConnectionMonitor] | None = None,
    ) -> None:
        self._core = core
        self._links = dict(links)
        self._around = around
        self._monitors = dict(monitors or {})
        self._poller = zmq.Poller()
        self._drain_until_ns: int | None = None
        self._publish_ns = 0
        self._unseen = True  # something happened since the last publication
        self._awaited_ns: int | None = None  # the timer that the loop last waited for
        self._complain_ns = 0
        self._complained: dict[str, int] = {}
        self._poller.register(around.wake.fileno(), zmq.POLLIN)
        for monitor in self._monitors.values():
            self._poller.register(monitor.raw, zmq.POLLIN)

    def run(self) -> int:
        """Turn until asked to stop and drained; the exit code.

        Raises StartError if the core finds that it must end.
        """
        around = self._around
        self._core.start(around.clock())
        self._settle(around.clock())
        while not self._finished(around.clock()):
            self._turn()
            if why := self._core.must_end():
                raise StartError(why, CONFIGURATION)
        self._settle(around.clock())
        return OK

    # --- one turn ----------------------------------------------------------------------------

    def _turn(self) -> None:
        core, around = self._core, self._around
        wait_from_ns = around.clock()
        readable = dict(self._poller.poll(self._wait_ms(wait_from_ns)))
        now_ns = around.clock()
        around.health.turned_ns = now_ns
        if around.wake.fileno() in readable:
            around.wake.clear()
        handled = 0
        for name, link in self._links.items():
            if link.raw in readable:
                for peer, frames in link.drain():
                    core.receive(now_ns, name, peer, frames)
                    handled += 1
        if handled:
            around.metrics.batch.observe(handled)
        self._stop_if_asked(now_ns)
        self._take_commits(now_ns)
        self._tick(now_ns)
        self._settle(now_ns)
        self._publish(now_ns)

    def _wait_ms(self, now_ns: int) -> int:
        """Until the next timer, and register what is worth waking up for."""
        for link in self._links.values():
            self._poller.register(link.raw, self._interest(link))
        self._awaited_ns = self._core.due_ns()
        dues = [now_ns + TURN_NS, self._publish_ns if self._unseen else None]
        dues += [self._awaited_ns, self._around.notifier.due_ns(), self._drain_until_ns]
        dues += [link.retry_due_ns() for link in self._links.values()]
        until_ns = min(due for due in dues if due is not None)
        return max(0, math.ceil((until_ns - now_ns) / 1e6))

    def _interest(self, link: LinkSocket) -> int:
        """Strangers wait while the store is far behind."""
        writer = self._around.writer
        behind = link.link.outside and writer is not None and writer.backlog >= BACKLOG_MAX
        interest = 0 if behind else int(zmq.POLLIN)
        return interest | int(zmq.POLLOUT) if link.wants_writable else interest

    def _take_commits(self, now_ns: int) -> None:
        writer = self._around.writer
        if writer is None:
            return
        if writer.crash is not None:
            raise RuntimeError("the commit writer crashed") from writer.crash
        for result in writer.take_results():
            if isinstance(result, Committed):
                self._core.committed(now_ns, result.number)
            else:
                self._core.commit_failed(now_ns, result.number, result.reason)

    def _tick(self, now_ns: int) -> None:
        due_ns = self._core.due_ns()
        if due_ns is not None and due_ns <= now_ns:
            # A time that was set since the loop last waited may lie far back, and nobody was late.
            late_ns = now_ns - due_ns if due_ns == self._awaited_ns else 0
            self._around.metrics.lag_s.observe(late_ns / SECOND_NS)
            self._core.tick(now_ns)

    # --- effects -----------------------------------------------------------------------------

    def _settle(self, now_ns: int) -> None:
        """Let the core flush, do what it says, and tell it what could not be delivered."""
        for link in self._links.values():
            due_ns = link.retry_due_ns()
            if link.wants_writable or (due_ns is not None and due_ns <= now_ns):
                link.retry(now_ns)
        for _ in range(EFFECT_PASSES_MAX):
            self._core.flush(now_ns)
            for effect in self._core.take_effects():
                self._carry_out(now_ns, effect)
            if not self._tell_undelivered(now_ns):
                break
        if self._around.event_log is not None:
            self._around.event_log.flush(now_ns)

    def _carry_out(self, now_ns: int, effect: Effect) -> None:
        match effect:
            case Send():
                self._links[effect.link].send(now_ns, effect.peer, effect.frames)
            case Commit():
                if self._around.writer is None:
                    raise RuntimeError(f"{self._core.name} commits, but was given no store")
                self._around.writer.submit(effect)
            case Record():
                if self._around.event_log is not None:
                    self._around.event_log.append(effect.now_ns, effect.event)
            case Say():
                getattr(self._around.log, effect.level)(effect.event, **effect.fields)

    def _tell_undelivered(self, now_ns: int) -> bool:
        told = False
        for name, link in self._links.items():
            for peer, frames in link.take_undelivered():
                self._core.undeliverable(now_ns, name, peer, frames)
                told = True
        return told

    # --- the end -----------------------------------------------------------------------------

    def _stop_if_asked(self, now_ns: int) -> None:
        if self._around.shutdown.level and self._drain_until_ns is None:
            self._drain_until_ns = now_ns + DRAIN_NS
            self._around.log.info("draining")
            self._around.notifier.stopping()
            self._core.drain(now_ns)

    def _finished(self, now_ns: int) -> bool:
        if self._around.shutdown.level > 1:
            return True
        if self._drain_until_ns is None:
            return False
        if now_ns >= self._drain_until_ns:
            return True
        writer = self._around.writer
        if not self._core.drained() or (writer is not None and writer.backlog):
            return False
        if not any(link.queued_messages for link in self._links.values()):
            return True
        # What is queued may be for a peer that is gone, so it is not worth the whole time.
        self._drain_until_ns = min(self._drain_until_ns, now_ns + LAST_WORDS_NS)
        return False

    # --- what others see ---------------------------------------------------------------------

    def _publish(self, now_ns: int) -> None:
        """Show the core's state to the admin thread and the service manager, ten times a second."""
        for monitor in self._monitors.values():
            monitor.drain()
        self._unseen = now_ns < self._publish_ns
        if self._unseen:
            return
        self._publish_ns = now_ns + PUBLISH_NS
        self._around.chores(now_ns)
        health = self._around.health
        draining = "stopping" if self._drain_until_ns is not None else ""
        health.not_ready = draining or self._core.not_ready()
        health.gauges = self._core.gauges()
        health.peers = self._core.peers()
        health.counters = {**self._core.counters, **self._around.extra_counters()}
        health.links = {name: self._stats(name, link) for name, link in self._links.items()}
        if not draining:
            self._around.notifier.report(now_ns, health.not_ready)
        if now_ns >= self._complain_ns:
            self._complain_ns = now_ns + COMPLAIN_NS
            self._complain()

    def _stats(self, name: str, link: LinkSocket) -> LinkStats:
        monitor = self._monitors.get(name)
        return LinkStats(
            received=link.received,
            sent=link.sent,
            undelivered=link.undelivered_count,
            endless_messages=link.endless_messages,
            queued_messages=link.queued_messages,
            queued_bytes=link.queued_bytes,
            disconnected=monitor.disconnected if monitor else 0,
            handshakes_failed=monitor.handshakes_failed if monitor else 0,
        )

    def _complain(self) -> None:
        """One line for all that was refused since the last one."""
        health = self._around.health
        counts = {k: n for k, n in health.counters.items() if k.startswith("refused")}
        for name, stats in health.links.items():
            counts[f"{name}_endless_messages"] = stats.endless_messages
            counts[f"{name}_handshakes_failed"] = stats.handshakes_failed
        new = {k: n - self._complained.get(k, 0) for k, n in counts.items()}
        self._complained = counts
        if any(new.values()):
            self._around.log.warning("refused_input", **{k: n for k, n in new.items() if n})


def run(
    core: Core,
    bindings: Sequence[Binding],
    around: Surroundings,
    *,
    on_open: Callable[[dict[str, str]], None] = lambda _: None,
    context: zmq.Context[zmq.Socket[bytes]] | None = None,
) -> int:
    """Open the core's links, run the loop until the shutdown asks, close; the exit code.

    ``on_open`` gets the endpoint of each link once all are open. Raises StartError if one cannot
    be bound.
    """
    missing = {link.name for link in core.links} ^ {binding.link.name for binding in bindings}
    if missing:
        raise ValueError(f"{core.name}: links without address, or unknown: {sorted(missing)}")
    context = context or zmq.Context()
    links: dict[str, LinkSocket] = {}
    monitors: dict[str, ConnectionMonitor] = {}
    endpoints: dict[str, str] = {}
    with ExitStack() as stack:
        stack.callback(context.term)
        for binding in bindings:
            name = binding.link.name
            raw, endpoints[name] = open_socket(context, binding)
            stack.callback(_close, raw, around.shutdown)
            links[name] = LinkSocket(binding.link, raw)
            if binding.link.outside:
                monitors[name] = ConnectionMonitor(context, raw)
                stack.callback(monitors[name].raw.close)
                stack.callback(raw.disable_monitor)
        on_open(endpoints)
        return Loop(core, links, around, monitors).run()


def open_writer(
    store: Store | None, wake: Wake, metrics: Metrics, failures: tuple[type[Exception], ...]
) -> CommitWriter | None:
    """A started writer for the store, if there is one."""
    if store is None:
        return None
    writer = CommitWriter(store, wake.set, failures=failures, observe_s=metrics.commit_s.observe)
    writer.start()
    return writer


def _close(raw: zmq.Socket[bytes], shutdown: Shutdown) -> None:
    raw.close(linger=0 if shutdown.level > 1 else LINGER_MS)
