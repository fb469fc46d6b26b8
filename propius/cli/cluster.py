"""A whole Propius on this machine, under supervisord: started, watched, stopped.

``propius up`` and the demo use it, and so may tests::

    with Cluster(directory, overrides={"scheduler": {"policy": "fifo"}}) as cluster:
        job = Job(endpoint=cluster.endpoint("job_manager", "jobs"), ...)

Not here: installing Propius as a service of a machine (``deploy/systemd``, ``supervisord.conf``).
"""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from propius.cli.status import (
    DaemonStatus,
    daemon_names,
    dialled,
    is_alive,
    manager_name,
    run_info,
    statuses,
)
from propius.config import Config, config_yaml, load_config
from propius.errors import PropiusError

READY_TIMEOUT_S: Final = 30.0
STOP_TIMEOUT_S: Final = 20.0  # supervisord gives each program 15 s
LOOK_AGAIN_S: Final = 0.05
# Free ports are taken from below the range that outgoing connections use, so that a port is still
# free when a daemon that was killed comes back a moment later.
FREE_PORTS: Final = range(20_000, 32_000)
_PORTS: Final = (
    ("job_manager", "port"),
    ("job_manager", "inside_port"),
    ("scheduler", "port"),
    ("load_balancer", "port"),
    ("load_balancer", "inside_port"),
)
_ADMIN_PORTS: Final = (
    ("job_manager", "admin_port"),
    ("scheduler", "admin_port"),
    ("load_balancer", "admin_port"),
    ("client_manager", "admin_port_base"),
)
_UNIX_PATH_MAX: Final = 100
SERVERS: Final = 3  # of a cluster's names; the others are client managers


class ClusterError(PropiusError):
    """The system does not start, or is not ready in time; one line with the reason and the log."""


class NotReadyError(ClusterError):
    """The time is over, and some daemon is not ready yet."""


class Cluster:
    """The daemons of one directory, which becomes their state directory.

    ``overrides`` are configuration values over those of ``config`` (a loaded one; default: the
    packaged). With ``free_ports`` every port is a free one; otherwise only those that are 0.
    Entering the context starts everything and waits until it is ready; leaving stops everything.
    Raises ClusterError, and ConfigError for wrong overrides.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        managers: int = 2,
        overrides: Mapping[str, Any] | None = None,
        config: Config | None = None,
        free_ports: bool = True,
        ready_timeout_s: float = READY_TIMEOUT_S,
    ) -> None:
        if managers < 1:
            raise ClusterError(f"a system needs at least one client manager, not {managers}")
        self.directory = Path(directory).absolute()
        self.ready_timeout_s = ready_timeout_s
        self.names = [
            "scheduler",
            "job_manager",
            "load_balancer",
            *(manager_name(number) for number in range(managers)),
        ]
        self._config = config
        self._overrides = overrides or {}
        self._free_ports = free_ports
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._was_ready = False
        self._log_sizes: dict[str, int] = {}  # when we started; what is older is not news

    @property
    def runs(self) -> bool:
        """Whether the supervisord that we started still runs."""
        return self._supervisor is not None and self._supervisor.poll() is None

    @property
    def config_file(self) -> Path:
        """The configuration that the daemons read."""
        return self.directory / "config.yml"

    @property
    def logs(self) -> Path:
        """The folder of the daemons' logs."""
        return self.directory / "logs"

    # --- start and stop ------------------------------------------------------------------------

    def start(self) -> None:
        """Write the configuration and start supervisord; does not wait for anything."""
        pid = supervisor_pid(self.directory)
        if pid:
            raise ClusterError(f"{self.directory}: a system runs here already (pid {pid})")
        try:
            for folder in (self.directory, self.directory / "run" / "managers", self.logs):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for added in (self.directory / "run" / "managers").glob("*.conf"):
                added.unlink()
            self._write_files()
        except OSError as error:
            where, why = error.filename or self.directory, error.strerror
            raise ClusterError(
                f"{where}: {why}; the state directory must be a folder that can be written "
                "(--state-dir, state_dir)"
            ) from error
        self._was_ready = False
        self._log_sizes = {name: len(self._log_text(name)) for name in self.names}
        with (self.logs / "supervisord.out").open("wb") as out:
            self._supervisor = subprocess.Popen(
                [sys.executable, "-m", "propius.cli.supervise", "-n", "-s", "-c", self._conf],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,  # a Ctrl-C is for us; we then stop it in good order
            )

    def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until every daemon can do its work; raises ClusterError with what is missing.

        A daemon that refuses to start for the first time ends the wait with its reason.
        """
        deadline_s = time.monotonic() + (self.ready_timeout_s if timeout_s is None else timeout_s)
        while True:
            if self._supervisor is not None and self._supervisor.poll() is not None:
                said = (self.logs / "supervisord.out").read_text("utf-8", "replace").split("\n")
                text = " ".join(line.strip() for line in said[-3:])
                raise ClusterError(f"supervisord ended: {text} (logs in {self.logs})")
            waiting = [each for each in self.statuses() if each.state != "ready"]
            if not waiting:
                self._was_ready = True
                return
            for each in waiting:
                if not self._was_ready and (reason := self._refusal(each.daemon)):
                    raise ClusterError(reason)
            if time.monotonic() > deadline_s:
                missing = "; ".join(f"{each.daemon}: {each.why}" for each in waiting)
                raise NotReadyError(f"not ready in time: {missing} (logs in {self.logs})")
            time.sleep(LOOK_AGAIN_S)

    def stop(self) -> None:
        """Stop all and wait until no process is left; does nothing if nothing runs."""
        # Just started, it may not have written its pid file yet.
        ours = {self._supervisor.pid} if self._supervisor is not None else set()
        stop_system(self.directory, sorted({*self.names, *daemon_names(self.directory)}), ours)
        if self._supervisor is not None:
            self._supervisor.wait(STOP_TIMEOUT_S)
            self._supervisor = None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _refusal(self, name: str) -> str:
        """Why a daemon ended before it ran: its one line for people, "" if there is none."""
        new = self._log_text(name)[self._log_sizes.get(name, 0) :]
        lines = [line for line in new.splitlines() if line.startswith("propius: ")]
        return lines[-1].removeprefix("propius: ") if lines else ""

    def _log_text(self, name: str) -> str:
        try:
            path = self.logs / f"{program_name(name)}.log"
            return path.read_text("utf-8", "replace")
        except OSError:
            return ""

    # --- while it runs -------------------------------------------------------------------------

    def endpoint(self, daemon: str, link: str) -> str:
        """The address of a daemon's link: ("job_manager", "jobs"), ("load_balancer", "clients")."""
        known = run_info(self.directory, daemon)
        if not known:
            raise ClusterError(f"{daemon} does not run")
        return dialled(str(known["endpoints"][link]))

    def pid(self, daemon: str) -> int:
        """The process of a daemon; 0 while it is down."""
        return int(run_info(self.directory, daemon).get("pid", 0))

    def kill(self, daemon: str, number: int = signal.SIGKILL) -> int:
        """Send a daemon a signal; the pid it had. supervisord starts it again."""
        pid = self.pid(daemon)
        if not pid:
            raise ClusterError(f"{daemon} does not run")
        os.kill(pid, number)
        return pid

    def statuses(self) -> list[DaemonStatus]:
        """What each daemon is doing, those that were added included and drained ones not."""
        return statuses(self.directory)

    def admin(self, daemon: str) -> str:
        """host:port of a daemon's /readyz, /livez and /metrics."""
        return str(run_info(self.directory, daemon).get("admin", ""))

    # --- files ---------------------------------------------------------------------------------

    @property
    def _conf(self) -> Path:
        return self.directory / "supervisord.conf"

    def _write_files(self) -> None:
        config = self._config or load_config()
        values = config.model_dump(mode="json", by_alias=True)
        for section, changes in self._overrides.items():
            if isinstance(changes, Mapping):
                values.setdefault(section, {}).update(changes)
            else:
                values[section] = changes
        values["state_dir"] = str(self.directory)
        for section, key in (("event_log", "directory"), ("store", "path")):
            if values[section][key]:
                values[section][key] = str(Path(values[section][key]).absolute())
        self._choose_ports(values)
        self.config_file.write_text(config_yaml(values))
        load_config(self.config_file)
        self._conf.write_text(self._supervisor_conf())
        write_daemon_names(self.directory, self.names)

    def _choose_ports(self, values: dict[str, Any]) -> None:
        needed = [
            (section, key)
            for section, key in _PORTS
            if self._free_ports or values[section][key] == 0
        ]
        for (section, key), port in zip(needed, free_ports(len(needed)), strict=True):
            values[section][key] = port
        if self._free_ports:
            for section, key in _ADMIN_PORTS:
                values[section][key] = 0  # the run files tell

    def _supervisor_conf(self) -> str:
        run = self.directory / "run"
        control = ""
        if len(str(run)) < _UNIX_PATH_MAX - len("/supervisor.sock"):
            control = _CONTROL.format(run=_escaped(run))
        programs = [program_section(self.directory, name) for name in self.names]
        return _template("supervisord_template.conf").format(
            directory=_escaped(self.directory),
            run=_escaped(run),
            logs=_escaped(self.logs),
            control=control,
            programs="".join(programs),
            servers=",".join(self.names[:SERVERS]),
            client_managers=",".join(map(program_name, self.names[SERVERS:])),
        )


# The socket is for `supervisorctl -c supervisord.conf` and `propius client-manager add`.
_CONTROL: Final = """
[unix_http_server]
file={run}/supervisor.sock
chmod=0700

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl=unix://{run}/supervisor.sock
"""


def program_section(state_dir: Path, name: str) -> str:
    """The part of supervisord's configuration that is about one daemon."""
    manager = "-" in name
    reason = "A wrong configuration (2) does not heal by itself"
    return _template("supervisord_program.conf").format(
        program=program_name(name),
        command=_escaped(shlex.join(_command(state_dir, name))),
        logs=_escaped(state_dir / "logs"),
        exitcodes="0,2" if manager else "2",
        exitcodes_reason=f"{reason}, a drained one (0) is meant to end."
        if manager
        else f"{reason}.",
    )


def program_name(daemon: str) -> str:
    """supervisord's name for a daemon, as in the source's supervisord.conf."""
    return daemon.replace("-", "_")


def write_daemon_names(state_dir: Path, names: Sequence[str]) -> None:
    """Say which daemons belong to this system now."""
    path = state_dir / "run" / "cluster.json"
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.write_text(json.dumps({"daemons": list(names)}))
    new.replace(path)


def supervisor_pid(state_dir: Path) -> int:
    """The supervisord that `propius up` started for this directory; 0 if none runs."""
    try:
        pid = int((state_dir / "run" / "supervisord.pid").read_text())
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return 0
    # The number may have been given to another process since.
    return pid if os.fsencode(state_dir.absolute()) in command and is_alive(pid) else 0


def stop_system(
    state_dir: Path, names: list[str], supervisors: AbstractSet[int] = frozenset()
) -> bool:
    """Stop the daemons of this directory and their supervisord; whether anything ran."""
    supervisors = {*supervisors, supervisor_pid(state_dir)} - {0}
    pids = {int(run_info(state_dir, name).get("pid", 0)) for name in names} - {0} | supervisors
    for pid in supervisors:
        _signal(pid, signal.SIGTERM)
    _wait_gone(supervisors, STOP_TIMEOUT_S)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            if is_alive(pid):
                _signal(pid, number)
        _wait_gone(pids, STOP_TIMEOUT_S / 2)
    return bool(pids)


def free_ports(count: int) -> list[int]:
    """So many different free ports of the loopback interface."""
    held: list[socket.socket] = []
    try:
        for port in random.sample(FREE_PORTS, len(FREE_PORTS)):
            if len(held) == count:
                break
            candidate = socket.socket()
            try:
                candidate.bind(("127.0.0.1", port))
                held.append(candidate)
            except OSError:
                candidate.close()
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # gone meanwhile, which is what we want


def _wait_gone(pids: AbstractSet[int], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while any(map(is_alive, pids)) and time.monotonic() < deadline_s:
        time.sleep(LOOK_AGAIN_S)


def _command(state_dir: Path, name: str) -> list[str]:
    """The console script beside this interpreter, else the module."""
    daemon, _, number = name.partition("-")
    script = Path(sys.executable).with_name(f"propius-controller-{daemon.replace('_', '-')}")
    program = [str(script)] if script.exists() else [sys.executable, "-m", f"daemons.{daemon}.main"]
    config = state_dir / "config.yml"
    return [*program, *([number] if number else []), "--config", str(config)]


def _template(name: str) -> str:
    return resources.files("propius").joinpath(name).read_text("utf-8")


def _escaped(value: object) -> str:
    """supervisord expands % in its file."""
    return str(value).replace("%", "%%")
