"""``propius client-manager``: who serves devices, one more, one less, while all the others run.

A client manager joins by saying hello, so adding one is starting its program, and draining one is
asking its process to stop in good order (SIGTERM): it tells its clients to check in again, waits
for what the job manager owes them, and ends with exit code 0, after which nobody starts it again.

:func:`add`, :func:`drain` and :func:`managers` are for programs and tests. Not here: a machine
whose daemons are services of its own (``deploy/systemd/README.md``); `drain` and `list` work there
too, `add` is ``systemctl start propius-client-manager@N``.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import re
import signal
import socket
import time
import xmlrpc.client
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from propius.cli.cluster import (
    LOOK_AGAIN_S,
    ClusterError,
    program_name,
    program_section,
    supervisor_pid,
    write_daemon_names,
)
from propius.cli.options import (
    ConfigOption,
    JsonOption,
    StateOption,
    TimeoutOption,
    one_line,
    say,
    state_dir_of,
)
from propius.cli.status import daemon_names, get, is_alive, manager_name, run_info, status
from propius.errors import UsageError

PAGE_BYTES_MAX: Final = 1 << 20
ID_MAX: Final = 65_535
STARTED_S: Final = 1.2  # supervisord takes what ends sooner for a failed start, and repeats it
COMES_BACK_S: Final = 5.0  # for one that was killed just now and is being restarted
RPC_TIMEOUT_S: Final = 10.0
ALREADY_STARTED: Final = 60  # supervisord's fault code
BAD_NAME: Final = 10
_CLIENTS: Final = re.compile(
    r"^propius_clients_(?:waiting|offered|claiming)\{[^}]*\} (\S+)$", re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class Manager:
    """A client manager. ``clients`` is -1 where its own figures cannot be read."""

    manager: int
    state: str  # ready | draining, as the load balancer sees it; else what is known of its process
    incarnation: int = 0
    requests: int = 0  # that the load balancer passed on and that are not answered yet
    clients: int = -1
    pid: int = 0


# --- for programs --------------------------------------------------------------------------------


def managers(state_dir: Path) -> list[Manager]:
    """The client managers that the load balancer knows, and those that it should; by number.

    Raises ClusterError if the load balancer does not answer.
    """
    admin = str(run_info(state_dir, "load_balancer").get("admin", ""))
    code, text = get(admin, "/peers", PAGE_BYTES_MAX) if admin else (0, "it does not run")
    if code != 200:
        raise ClusterError(f"load_balancer: {text} (state in {state_dir})")
    connected = {int(peer["manager"]): peer for peer in json.loads(text)}
    return [
        _connected(state_dir, connected[number])
        if number in connected
        else _not_connected(state_dir, number)
        for number in sorted({*connected, *_here(state_dir)})
    ]


def drain(state_dir: Path, number: int, timeout_s: float) -> bool:
    """Let a client manager end in good order; False if it does not run.

    Raises UsageError if none of this number ever ran here, ClusterError if it does not end in time.
    """
    name = manager_name(number)
    with _membership(state_dir):
        known = _wait_running(state_dir, name)
        if known:
            early_s = STARTED_S - (time.time() - float(known["started_at_s"]))
            if 0 < early_s <= STARTED_S:
                time.sleep(early_s)
            _end(int(known["pid"]), name, timeout_s)
        elif not (state_dir / "run" / f"{name}.lock").exists():
            running = ", ".join(map(str, _here(state_dir))) or "none"
            raise UsageError(f"no client manager {number} here (there are: {running})")
        if _has_cluster(state_dir):
            names = daemon_names(state_dir)
            write_daemon_names(state_dir, [each for each in names if each != name])
    return bool(known)


def add(state_dir: Path, number: int | None, timeout_s: float) -> int:
    """Start one more client manager under the supervisord of `propius up`; its number.

    Without a number: the lowest that is free. Returns when the load balancer knows it. Raises
    UsageError if that one runs, ClusterError if there is no supervisord or it does not come up.
    """
    with _membership(state_dir):
        used = _here(state_dir)
        if number is None:
            number = next(free for free in range(ID_MAX + 1) if free not in used)
        elif number in used:
            raise UsageError(f"client manager {number} is here already")
        name = manager_name(number)
        _start(state_dir, name)
        names = daemon_names(state_dir)
        write_daemon_names(state_dir, [*(each for each in names if each != name), name])
    _wait_joined(state_dir, number, timeout_s)
    return number


# --- pieces --------------------------------------------------------------------------------------


def _has_cluster(state_dir: Path) -> bool:
    return (state_dir / "run" / "cluster.json").exists()


def _here(state_dir: Path) -> list[int]:
    """The numbers of those that belong to this system, or run on this state directory."""
    running = (path.stem for path in (state_dir / "run").glob("client_manager-*.json"))
    names = {*daemon_names(state_dir), *(name for name in running if run_info(state_dir, name))}
    numbers = (name.removeprefix("client_manager-") for name in names)
    return sorted(int(number) for number in numbers if number.isdecimal())


def _connected(state_dir: Path, peer: dict[str, Any]) -> Manager:
    known = run_info(state_dir, manager_name(peer["manager"]))
    code, page = get(str(known["admin"]), "/metrics", PAGE_BYTES_MAX) if known else (0, "")
    return Manager(
        manager=peer["manager"],
        state="ready" if peer["ready"] else "draining",
        incarnation=peer["incarnation"],
        requests=peer["requests"],
        clients=sum(int(float(count)) for count in _CLIENTS.findall(page)) if code == 200 else -1,
        pid=int(known.get("pid", 0)),
    )


def _not_connected(state_dir: Path, number: int) -> Manager:
    """The load balancer does not know it: what of its process?"""
    found = status(state_dir, manager_name(number))
    state = "down" if not found.pid else f"not connected ({found.why or found.state})"
    return Manager(manager=number, state=state, pid=found.pid)


@contextmanager
def _membership(state_dir: Path) -> Iterator[None]:
    """One command at a time changes who belongs to the system."""
    path = state_dir / "run" / "membership.lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; no system here (--state-dir)") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _wait_running(state_dir: Path, name: str) -> dict[str, Any]:
    """Its run file; one that was killed a moment ago is waited for, as it is being restarted."""
    deadline_s = time.monotonic() + COMES_BACK_S
    belongs = name in daemon_names(state_dir) and supervisor_pid(state_dir)
    while True:
        known = run_info(state_dir, name)
        if known or not belongs or time.monotonic() > deadline_s:
            return known
        time.sleep(LOOK_AGAIN_S)


def _end(pid: int, name: str, timeout_s: float) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise ClusterError(f"{name} (pid {pid}) is another user's") from None
    deadline_s = time.monotonic() + timeout_s
    while is_alive(pid):
        if time.monotonic() > deadline_s:
            raise ClusterError(f"{name} (pid {pid}) has not ended after {timeout_s:g} s")
        time.sleep(LOOK_AGAIN_S)


def _start(state_dir: Path, name: str) -> None:
    """Have supervisord start it: as a program that it knows, else as one more."""
    if not supervisor_pid(state_dir):
        number = name.rpartition("-")[2]
        raise ClusterError(
            f"no supervisord of `propius up` runs in {state_dir}; start it as you started the"
            f" others: propius-controller-client-manager {number}"
        )
    program = program_name(name)
    try:
        with _supervisor(state_dir) as supervisor:
            for group in ("client_managers", program):
                if _called(BAD_NAME, supervisor.startProcess, f"{group}:{program}", False):
                    return
            conf = state_dir / "run" / "managers" / f"{program}.conf"
            conf.write_text(program_section(state_dir, name))
            supervisor.reloadConfig()
            supervisor.addProcessGroup(program)
    except (OSError, http.client.HTTPException, xmlrpc.client.Error) as error:
        raise ClusterError(f"supervisord does not start {program}: {error}") from None


def _called(but_for: int, call: Any, *arguments: Any) -> bool:
    """Whether supervisord did it; False for this one fault, others are raised."""
    try:
        call(*arguments)
    except xmlrpc.client.Fault as fault:
        if fault.faultCode == ALREADY_STARTED:
            return True
        if fault.faultCode != but_for:
            raise
        return False
    return True


@contextmanager
def _supervisor(state_dir: Path) -> Iterator[Any]:
    """supervisord's own calls, over its socket."""
    transport = _UnixTransport(str(state_dir / "run" / "supervisor.sock"))
    with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as server:
        yield server.supervisor


class _UnixTransport(xmlrpc.client.Transport):
    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        _, connection = self._connection
        if connection is None:
            connection = _UnixConnection(self._path)
            self._connection = host, connection  # where the base class keeps it, and closes it
        return connection


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=RPC_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _wait_joined(state_dir: Path, number: int, timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        states = {each.manager: each.state for each in managers(state_dir)}
        if states.get(number) == "ready":
            return
        if time.monotonic() > deadline_s:
            log = state_dir / "logs" / f"{program_name(manager_name(number))}.log"
            raise ClusterError(
                f"client manager {number} was started, but the load balancer does not know it after"
                f" {timeout_s:g} s: {states.get(number, 'down')} (see {log})"
            )
        time.sleep(LOOK_AGAIN_S)


# --- commands ------------------------------------------------------------------------------------

app = typer.Typer(
    no_args_is_help=True, help="List client managers, add one, drain one, while the system runs."
)

IdArgument = Annotated[int, typer.Argument(metavar="ID", min=0, max=ID_MAX, help="Its number.")]
FreeIdArgument = Annotated[
    int | None,
    typer.Argument(metavar="[ID]", min=0, max=ID_MAX, help="Its number; else a free one."),
]


@app.command("list")
def list_managers(
    config: ConfigOption = None, state_dir: StateOption = None, as_json: JsonOption = False
) -> None:
    """List the client managers as the load balancer sees them."""
    with one_line():
        found = managers(state_dir_of(config, state_dir))
        if as_json:
            typer.echo(json.dumps([asdict(each) for each in found], indent=2))
        else:
            Console().print(_table(found))


@app.command("drain")
def drain_command(
    number: IdArgument,
    config: ConfigOption = None,
    state_dir: StateOption = None,
    timeout_s: TimeoutOption = 15.0,
    as_json: JsonOption = False,
) -> None:
    """Let one end: its clients check in again with the others, what they accepted is answered."""
    with one_line():
        ran = drain(state_dir_of(config, state_dir), number, timeout_s)
        ended = "drained: its clients check in with the others, and it has ended"
        text = f"client manager {number} {ended if ran else 'does not run'}"
        say(as_json, text, manager=number, drained=ran)


@app.command("add")
def add_command(
    number: FreeIdArgument = None,
    config: ConfigOption = None,
    state_dir: StateOption = None,
    timeout_s: TimeoutOption = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Start one more; the others need not be told."""
    with one_line():
        added = add(state_dir_of(config, state_dir), number, timeout_s)
        say(as_json, f"client manager {added} serves devices", manager=added)


def _table(found: list[Manager]) -> Table:
    table = Table("manager", "state", "clients", "requests", "incarnation", "pid", box=None)
    for each in found:
        table.add_row(
            str(each.manager),
            each.state,
            str(each.clients) if each.clients >= 0 else "",
            str(each.requests),
            str(each.incarnation or ""),
            str(each.pid or ""),
        )
    return table
