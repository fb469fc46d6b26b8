"""The load balancer put together: its settings, its core, its addresses."""

from __future__ import annotations

from daemons.load_balancer.core import LoadBalancerCore
from daemons.load_balancer.settings import LoadBalancerSettings
from propius.shell.program import Assembly, Start, bind_endpoint
from propius.shell.socket import Binding


def build(start: Start) -> Assembly:
    """The core, and where it listens."""
    here = start.config.load_balancer
    retry = start.config.client_manager
    settings = start.settings(
        LoadBalancerSettings, here, retry_min_s=retry.retry_min_s, retry_max_s=retry.retry_max_s
    )
    clients, managers = LoadBalancerCore.links
    return Assembly(
        core=LoadBalancerCore(settings, incarnation=start.incarnation),
        bindings=(
            Binding(clients, bind_endpoint(here.host, here.port), "load_balancer.port"),
            Binding(
                managers, bind_endpoint(here.host, here.inside_port), "load_balancer.inside_port"
            ),
        ),
        admin_port=here.admin_port,
        admin_key="load_balancer.admin_port",
    )
