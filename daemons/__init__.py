"""The controller's programs: load balancer, client managers, job manager, scheduler.

Each is a core that decides without looking at a clock or a socket, in the shell of
:mod:`propius.shell`. Imports `propius` and never `evaluation`; what they keep is in
:mod:`daemons.store`. docs/architecture.md has the picture.
"""
