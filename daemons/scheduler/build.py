"""The scheduler put together: its settings, its core, its addresses."""

from __future__ import annotations

from daemons.scheduler.core import SchedulerCore
from daemons.scheduler.settings import SchedulerSettings
from propius.config import ConfigError
from propius.engine import EngineError
from propius.shell.program import Assembly, Start, bind_endpoint
from propius.shell.socket import Binding


def build(start: Start) -> Assembly:
    """The core, and where it listens; an unknown policy is a ConfigError."""
    here = start.config.scheduler
    settings = start.settings(
        SchedulerSettings, here, plan_interval_s=here.plan_interval_ms / 1_000
    )
    try:
        core = SchedulerCore(settings, incarnation=start.incarnation, seed=here.seed)
    except EngineError as error:
        raise ConfigError(f"scheduler.policy: {error}") from None
    (inside,) = SchedulerCore.links
    return Assembly(
        core=core,
        bindings=(Binding(inside, bind_endpoint(here.host, here.port), "scheduler.port"),),
        admin_port=here.admin_port,
        admin_key="scheduler.admin_port",
    )
