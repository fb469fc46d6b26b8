"""The client manager put together: its settings, its core, its addresses."""

from __future__ import annotations

from daemons.client_manager.core import ClientManagerCore
from daemons.client_manager.settings import ClientManagerSettings
from propius.shell.program import Assembly, Start, dial_endpoint
from propius.shell.socket import Binding


def build(start: Start) -> Assembly:
    """The core, and whom it dials."""
    manager = int(start.name.rpartition("-")[2])
    config = start.config
    settings = start.settings(ClientManagerSettings, config.client_manager)
    load_balancer, scheduler, job_manager = (
        config.load_balancer,
        config.scheduler,
        config.job_manager,
    )
    endpoints = {
        "load_balancer": dial_endpoint(
            load_balancer.host, load_balancer.inside_port, "load_balancer.inside_port"
        ),
        "scheduler": dial_endpoint(scheduler.host, scheduler.port, "scheduler.port"),
        "job_manager": dial_endpoint(
            job_manager.host, job_manager.inside_port, "job_manager.inside_port"
        ),
    }
    return Assembly(
        core=ClientManagerCore(
            settings, manager, incarnation=start.incarnation, seed=start.incarnation
        ),
        bindings=[Binding(link, endpoints[link.name]) for link in ClientManagerCore.links],
        admin_port=config.client_manager_admin_port(manager),
        admin_key="client_manager.admin_port_base",
    )
