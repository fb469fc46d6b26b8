"""The job manager put together: its settings and core, its store and addresses."""

from __future__ import annotations

import os
from pathlib import Path

from daemons.job_manager.core import JobManagerCore
from daemons.job_manager.settings import JobManagerSettings
from daemons.store import SqliteStore, StoreError
from propius.shell.exit_codes import CONFIGURATION, STORE, StartError
from propius.shell.program import (
    Assembly,
    Start,
    bind_endpoint,
    dial_endpoint,
    write_private,
)
from propius.shell.socket import Binding

MASTER_KEY_BYTES = 32


def build(start: Start) -> Assembly:
    """The core with all that its store remembers, and where it listens."""
    config, here = start.config, start.config.job_manager
    scheduler_endpoint = dial_endpoint(
        config.scheduler.host, config.scheduler.port, "scheduler.port"
    )
    try:
        store = SqliteStore(config.store_path, config.store.durability)
        try:
            core = JobManagerCore(
                start.settings(JobManagerSettings, here),
                store.load(),
                boot_id=start.boot_id,
                incarnation=start.incarnation,
                now_ns=start.now_ns,
                wall_s=start.wall_s,
                master_key=os.urandom(MASTER_KEY_BYTES),
            )
        except BaseException:
            store.close()
            raise
    except StoreError as error:
        raise StartError(str(error), STORE) from None
    _write_key(config.state_dir / "operator.key", core.book.operator_key)
    jobs, managers, scheduler = JobManagerCore.links
    return Assembly(
        core=core,
        bindings=(
            Binding(jobs, bind_endpoint(here.host, here.port), "job_manager.port"),
            Binding(
                managers, bind_endpoint(here.host, here.inside_port), "job_manager.inside_port"
            ),
            Binding(scheduler, scheduler_endpoint),
        ),
        admin_port=here.admin_port,
        admin_key="job_manager.admin_port",
        store=store,
        store_failures=(StoreError,),
        close=store.close,
    )


def _write_key(path: Path, key: bytes) -> None:
    """The operator's key, unless it is there already; then a start needs no room on the disk."""
    data = key.hex().encode() + b"\n"
    try:
        if path.read_bytes() == data:
            return
    except FileNotFoundError:
        pass
    try:
        write_private(path, data)
    except OSError as error:
        text = f"state_dir: {path}: cannot be written: {error.strerror}"
        raise StartError(text, CONFIGURATION) from None
