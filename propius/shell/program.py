"""From the command line to a running daemon, and back to an exit code: what each ``main`` calls.

In order: arguments, configuration, process limits, the lock on the state directory, log, core (with
its store), admin endpoint, sockets, loop; then everything closed again. Whatever prevents the start
is one line on standard error and an exit code of :mod:`propius.shell.exit_codes`.

While a daemon runs, ``STATE_DIR/run/NAME.json`` tells its process id and real addresses.
"""

from __future__ import annotations

import argparse
import fcntl
import importlib.metadata
import json
import os
import resource
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

import zmq
from pydantic import BaseModel

from propius.config import Config, ConfigError, load_config
from propius.core import SECOND_NS, Core
from propius.messages import LogOpened
from propius.shell import exit_codes, logs
from propius.shell.admin import AdminServer
from propius.shell.event_log import EventLogWriter
from propius.shell.exit_codes import StartError
from propius.shell.health import Health, Metrics
from propius.shell.notify import Notifier
from propius.shell.runtime import Surroundings, open_writer, run
from propius.shell.socket import Binding
from propius.shell.wake import Shutdown, Wake
from propius.shell.writer import Store

ZMQ_VERSION_MIN: Final = (4, 3, 5)  # older ones crash on what a stranger may send
STOP_WRITER_S: Final = 2.0
RUN_FILE_BYTES: Final = 2_048  # always: on a full disk one start's file has room for the next one's

Settings = TypeVar("Settings")


@dataclass(frozen=True, slots=True)
class Start:
    """What a daemon's ``build`` gets."""

    name: str
    config: Config
    incarnation: int
    package_version: str
    boot_id: str
    now_ns: int
    wall_s: float

    def settings(self, cls: type[Settings], section: BaseModel, **others: Any) -> Settings:
        """A daemon's settings class, its fields taken from the configuration's section."""
        values = {
            "schema": self.config.schema_message,
            "package_version": self.package_version,
            "event_log": bool(self.config.event_log.directory),
            **dict(section),
            **others,
        }
        names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        return cls(**{name: value for name, value in values.items() if name in names})


@dataclass(slots=True)
class Assembly:
    """What a daemon's ``build`` returns."""

    core: Core
    bindings: Sequence[Binding]
    admin_port: int
    admin_key: str  # the configuration's name of that port
    store: Store | None = None
    store_failures: tuple[type[Exception], ...] = (OSError,)
    close: Callable[[], None] = lambda: None  # called last


Build = Callable[[Start], Assembly]


def run_daemon(name: str, build: Build, argv: Sequence[str] | None = None) -> int:
    """The whole life of a daemon that takes no arguments of its own; the exit code."""
    return launch(name, build, parser(name).parse_args(argv))


def parser(name: str) -> argparse.ArgumentParser:
    """The options that all daemons have."""
    program = f"propius-controller-{name.replace('_', '-')}"
    options = argparse.ArgumentParser(prog=program, description=f"The {name.replace('_', ' ')}.")
    options.add_argument("--config", metavar="FILE", help="keys that differ from the defaults")
    options.add_argument("--check", action="store_true", help="only check the configuration")
    return options


def launch(name: str, build: Build, options: argparse.Namespace) -> int:
    """Start with parsed options and run to the end; the exit code."""
    try:
        config = load_config(options.config)
        if options.check:
            return exit_codes.OK
        return _run(name, config, build)
    except ConfigError as error:
        logs.complain(f"{name}: {error}")
        return exit_codes.CONFIGURATION
    except StartError as error:
        logs.complain(f"{name}: {error}")
        return error.exit_code


def package_version() -> str:
    """The installed version; daemons of one system must have the same."""
    try:
        return importlib.metadata.version("propius")
    except importlib.metadata.PackageNotFoundError:
        return "0+checkout"


def bind_endpoint(host: str, port: int) -> str:
    """A ZeroMQ address to bind."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def dial_endpoint(host: str, port: int, key: str) -> str:
    """The address under which a daemon of this machine is found; raises ConfigError for port 0."""
    if port == 0:
        raise ConfigError(
            f"{key}: 0 (any free port) cannot be found by others; name a port, or use `propius up`"
        )
    return bind_endpoint({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)  # noqa: S104


def run_file(state_dir: Path, name: str) -> Path:
    """Where a running daemon says how it is reached."""
    return state_dir / "run" / f"{name}.json"


def write_private(path: Path, data: bytes) -> None:
    """A file that only its owner can read, there as a whole or not at all."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


# --- the steps -----------------------------------------------------------------------------------


def _run(name: str, config: Config, build: Build) -> int:
    _prepare_process()
    with ExitStack() as stack:
        stack.enter_context(_StateLock(config.state_dir, name))
        log, lines = logs.set_up(daemon=name, level=config.log.level, style=config.log.format)
        stack.callback(lines.close)
        start = Start(
            name=name,
            config=config,
            incarnation=secrets.randbits(62),
            package_version=package_version(),
            boot_id=Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip(),
            now_ns=time.monotonic_ns(),
            wall_s=time.time(),
        )
        try:
            return _serve(start, build, log, lines, stack)
        except (ConfigError, StartError):
            raise
        except Exception:
            log.exception("bug")
            return exit_codes.BUG


def _serve(start: Start, build: Build, log: Any, lines: logs.LineQueue, stack: ExitStack) -> int:
    wake = Wake()
    stack.callback(wake.close)
    shutdown = Shutdown(wake)
    stack.enter_context(shutdown.on_signals())
    made = build(start)
    stack.callback(made.close)
    health = Health(start.name)
    metrics = Metrics(health)
    admin = AdminServer(start.config.admin.host, made.admin_port, health, metrics, made.admin_key)
    stack.callback(admin.stop)
    writer = open_writer(made.store, wake, metrics, made.store_failures)
    if writer is not None:
        stack.callback(writer.stop, STOP_WRITER_S)
    events = _open_event_log(start, log)
    notifier = Notifier(os.environ)
    stack.callback(notifier.close)
    around = Surroundings(
        wake, shutdown, health, metrics, writer=writer, event_log=events, notifier=notifier, log=log
    )
    around.extra_counters = lambda: {
        "log_lines_dropped": lines.dropped,
        "events_logged": events.events if events else 0,
        "event_log_failures": int(bool(events and events.closed_because)),
    }
    told = RunFile(run_file(start.config.state_dir, start.name), log)
    stack.callback(told.path.unlink, missing_ok=True)
    around.chores = told.retry
    admin.start()

    def announce(endpoints: dict[str, str]) -> None:
        told.write(_run_facts(start, endpoints, admin.address))
        log.info("started", version=start.package_version, admin=admin.address, **endpoints)

    code = run(made.core, made.bindings, around, on_open=announce)
    if events is not None:
        events.close()
    log.info("stopped")
    return code


def _prepare_process() -> None:
    if zmq.zmq_version_info() < ZMQ_VERSION_MIN:
        needed = ".".join(map(str, ZMQ_VERSION_MIN))
        text = f"libzmq {zmq.zmq_version()} is too old, {needed} is needed: upgrade pyzmq"
        raise StartError(text, exit_codes.CONFIGURATION)
    os.umask(0o077)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _StateLock:
    """One daemon of a name on one state directory; the lock ends with the process."""

    def __init__(self, state_dir: Path, name: str) -> None:
        self._path = state_dir / "run" / f"{name}.lock"
        self._fd = -1

    def __enter__(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            text = f"state_dir: {self._path}: cannot be written: {error.strerror}"
            raise StartError(text, exit_codes.CONFIGURATION) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._fd)
            text = (
                f"{self._path} is locked: this program runs on this state_dir already{self._pid()}"
            )
            raise StartError(text, exit_codes.CANNOT_BIND) from None

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def _pid(self) -> str:
        """Which process that is, if it has said so."""
        try:
            known = json.loads(self._path.with_suffix(".json").read_text())
            return f" (pid {int(known['pid'])})"
        except (OSError, ValueError, KeyError):
            return ""


def _open_event_log(start: Start, log: Any) -> EventLogWriter | None:
    directory = start.config.event_log.directory
    if not directory:
        return None
    schema = start.config.schema_message

    def opened(_now_ns: int) -> LogOpened:
        return LogOpened(
            daemon=start.name,
            incarnation=start.incarnation,
            package_version=start.package_version,
            schema=schema.schema,
            attributes=schema.attributes,
            wall_s=time.time(),
        )

    def complain(reason: str) -> None:
        log.error("event_log_closed", why=reason)

    return EventLogWriter(Path(directory) / start.name, opened, complain)


def _run_facts(start: Start, endpoints: dict[str, str], admin: str) -> bytes:
    known = {
        "daemon": start.name,
        "pid": os.getpid(),
        "endpoints": endpoints,
        "admin": admin,
        "started_at_s": start.wall_s,
    }
    return json.dumps(known).encode().ljust(RUN_FILE_BYTES)


class RunFile:
    """Tells others where a daemon is reached; on a full disk as soon as there is room."""

    def __init__(self, path: Path, log: Any) -> None:
        self.path = path
        self._log = log
        self._unwritten = b""
        self._again_ns = 0

    def write(self, data: bytes) -> None:
        """Write it now, or keep it for ``retry``; one line in the log if it has to wait."""
        try:
            self._write(data)
        except OSError as error:
            if not self._unwritten:
                self._log.warning("run_file_not_written", path=str(self.path), why=error.strerror)
            self._unwritten = data
        else:
            self._unwritten = b""

    def retry(self, now_ns: int) -> None:
        """Try again, once a second, what could not be written."""
        if self._unwritten and now_ns >= self._again_ns:
            self._again_ns = now_ns + SECOND_NS
            self.write(self._unwritten)

    def _write(self, data: bytes) -> None:
        try:
            write_private(self.path, data)
        except OSError:
            # The file of a start that was killed has room for this one.
            room = self.path.stat().st_size if self.path.exists() else 0
            if room < len(data):
                raise
            with self.path.open("r+b", buffering=0) as file:
                file.write(data.ljust(room))
