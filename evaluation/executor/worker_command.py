"""``propius eval worker``: one worker of an executor, on one device."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from evaluation.executor.until_eof import stop_at_eof
from evaluation.executor.worker import Worker
from propius.cli.failure import fail
from propius.errors import PropiusError
from propius.shell import exit_codes
from propius.shell.wake import on_signals

__all__ = ["worker"]


def worker(
    endpoint: Annotated[
        str, typer.Argument(metavar="ENDPOINT", help="The broker's, as tcp://HOST:PORT.")
    ],
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:1 ...; auto takes a GPU if there is one.")
    ] = "auto",
    index: Annotated[int, typer.Option(min=0, help="With auto: which of the GPUs, in turn.")] = 0,
    threads: Annotated[int, typer.Option(min=1, max=1_024, help="Of torch, on the CPU.")] = 1,
    name: Annotated[str, typer.Option(help="For people; host and process id if not given.")] = "",
    until_eof: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Train what the broker at ENDPOINT gives out, until stopped.

    Start one on each GPU or CPU core, on any machine; each may come and go while jobs run.

    Example: propius eval worker tcp://127.0.0.1:49989 --device cpu
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # read when torch is loaded
    try:
        from evaluation.training.device import Device
    except ModuleNotFoundError:
        fail(
            "worker: a worker needs torch: run `make eval`, or install propius[training]",
            exit_codes.CONFIGURATION,
        )
    try:
        place = Device(device, index=index, threads=threads)
        running = Worker(
            endpoint,
            place.trainer,
            torch=place.torch,
            name=name,
            device=place.name,
            free_bytes=place.free_bytes,
        )
        with on_signals(running.stop, signal.SIGTERM, signal.SIGINT):
            if until_eof:
                stop_at_eof(running.stop)
            running.run()
        if running.is_training:  # nobody waits for it, and Python would
            os._exit(exit_codes.OK)
    except PropiusError as error:
        fail(f"worker: {error}", exit_codes.CONFIGURATION)


if __name__ == "__main__":
    typer.run(worker)
