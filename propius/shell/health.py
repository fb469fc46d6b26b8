"""What the loop lets others see: written by the loop, read by the admin thread, never locked.

Every field is replaced as a whole, so a reader sees an old or a new value, never half of one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from propius.core import SECOND_NS

HUNG_NS: Final = 5 * SECOND_NS  # the loop turns at least once a second


@dataclass(slots=True)
class LinkStats:
    """A link's counters at one moment."""

    received: int = 0
    sent: int = 0
    undelivered: int = 0
    endless_messages: int = 0
    queued_messages: int = 0
    queued_bytes: int = 0
    disconnected: int = 0
    handshakes_failed: int = 0


@dataclass(slots=True)
class Health:
    """The last published state of a daemon."""

    daemon: str
    turned_ns: int = field(default_factory=time.monotonic_ns)
    not_ready: str = "starting"
    counters: dict[str, int] = field(default_factory=dict)
    gauges: dict[str, float] = field(default_factory=dict)
    links: dict[str, LinkStats] = field(default_factory=dict)
    peers: list[dict[str, str | int | float | bool]] = field(default_factory=list)

    def hung_s(self, now_ns: int) -> float:
        """For how long the loop has been stuck; 0 if it is not."""
        idle_ns = now_ns - self.turned_ns
        return idle_ns / SECOND_NS if idle_ns > HUNG_NS else 0.0


class Metrics(Collector):
    """The daemon's page of metrics: the core's counters and gauges, and the shell's own."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self.registry = CollectorRegistry()
        self.lag_s = self._histogram(
            "propius_loop_lag_seconds",
            "how long after its time a timer was served that the loop waited for",
            (0.001, 0.01, 0.1, 1, 5),
        )
        self.batch = self._histogram(
            "propius_batch_messages", "messages handled in one turn", (1, 3, 10, 30, 100, 300, 1000)
        )
        self.commit_s = self._histogram(
            "propius_commit_seconds", "time to make a transaction durable", (0.001, 0.01, 0.1, 1, 5)
        )
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus-client for each scrape."""
        health = self._health
        yield self._gauge("ready", "1 if the daemon can do its work", not health.not_ready)
        for name, count in sorted(health.counters.items()):
            family = CounterMetricFamily(
                f"propius_{name}", name.replace("_", " "), labels=["daemon"]
            )
            family.add_metric([health.daemon], count)
            yield family
        for name, level in sorted(health.gauges.items()):
            yield self._gauge(name, name.replace("_", " "), level)
        yield from self._links()

    def _links(self) -> Iterator[Metric]:
        for name in LinkStats.__dataclass_fields__:
            text = f"{name.replace('_', ' ')}, by link"
            family: CounterMetricFamily | GaugeMetricFamily
            if name.startswith("queued"):
                family = GaugeMetricFamily(f"propius_link_{name}", text, labels=["daemon", "link"])
            else:
                family = CounterMetricFamily(
                    f"propius_link_{name}", text, labels=["daemon", "link"]
                )
            for link, stats in sorted(self._health.links.items()):
                family.add_metric([self._health.daemon, link], getattr(stats, name))
            yield family

    def _gauge(self, name: str, text: str, level: float) -> Metric:
        family = GaugeMetricFamily(f"propius_{name}", text, labels=["daemon"])
        family.add_metric([self._health.daemon], level)
        return family

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        family = Histogram(name, text, ["daemon"], registry=self.registry, buckets=buckets)
        return family.labels(self._health.daemon)
