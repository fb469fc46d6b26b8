"""``propius eval executor``: the broker to which jobs and workers connect."""

from __future__ import annotations

import importlib.metadata
import ipaddress
from typing import Annotated, Final

import typer

from evaluation.executor.broker import BrokerSettings
from evaluation.executor.jobs import STACK_CLIENTS
from evaluation.executor.serve import serve
from evaluation.executor.until_eof import stop_at_eof
from propius.cli.failure import fail
from propius.shell import exit_codes, logs
from propius.shell.exit_codes import StartError
from propius.shell.program import bind_endpoint
from propius.shell.wake import Shutdown

__all__ = ["executor"]

PORT: Final = 49_989
"""As in the original testbed."""


def executor(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65_535, help="0: any free one.")] = PORT,
    admin_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            show_default="none",
            help="Serve /livez, /readyz, /metrics and /peers there, on the same host; 0: any free.",
        ),
    ] = None,
    security: Annotated[
        str,
        typer.Option(help="none: other machines may connect, and nothing checks who they are."),
    ] = "loopback",
    stack_clients: Annotated[
        int, typer.Option(min=1, max=1_024, help="Clients that are trained at once, at most.")
    ] = STACK_CLIENTS,
    lost_s: Annotated[
        float, typer.Option(min=0.5, max=3_600, help="A worker silent for longer is given up.")
    ] = BrokerSettings.lost_s,
    until_eof: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Run the broker of an executor: jobs and workers connect to it, and may come and go.

    Example: propius eval executor --port 49989
    """
    log, lines = logs.set_up(daemon="executor", level="info", style="auto")
    settings = BrokerSettings(
        stack_clients=stack_clients,
        beat_s=min(BrokerSettings.beat_s, lost_s / 4),
        lost_s=lost_s,
        torch=_torch_here(),
    )

    def started(shutdown: Shutdown) -> None:
        if until_eof:
            stop_at_eof(shutdown.request)

    try:
        address = _address(host, security)
        code = serve(
            bind_endpoint(address, port),
            settings,
            admin=None if admin_port is None else (address, admin_port),
            on_open=_announce,
            on_start=started,
            log=log,
        )
    except StartError as error:
        fail(f"executor: {error}", error.exit_code)
    finally:
        lines.close()
    raise typer.Exit(code)


def _announce(endpoint: str, admin: str) -> None:
    typer.echo(f"executor: {endpoint}")
    if admin:
        typer.echo(f"admin: http://{admin}")


def _address(host: str, security: str) -> str:
    if security not in {"loopback", "none"}:
        text = f"--security {security}: it is loopback or none"
        raise StartError(text, exit_codes.CONFIGURATION)
    try:
        address = ipaddress.ip_address({"localhost": "127.0.0.1"}.get(host, host))
    except ValueError:
        text = f"--host {host}: an IP address is needed"
        raise StartError(text, exit_codes.CONFIGURATION) from None
    if not address.is_loopback and security != "none":
        text = f"--host {host} is reached by others; say --security none to allow it"
        raise StartError(text, exit_codes.CONFIGURATION)
    return str(address)


def _torch_here() -> str:
    """The version that workers should have; "" if it is not installed here."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return ""


if __name__ == "__main__":
    typer.run(executor)
