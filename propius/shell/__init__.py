"""Everything around a core that touches the world: sockets, timers, store thread, logs, health.

Written once, used by all programs; loaded only by programs (it may import structlog and
prometheus-client, which the SDK does not have). :mod:`propius.shell.runtime` is the loop, read it
first; :mod:`propius.shell.program` is what a daemon's ``main`` calls.
"""
