"""What the daemons of a state directory are doing now, read from their run files and endpoints."""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

HTTP_TIMEOUT_S: Final = 2.0

State = Literal["ready", "not ready", "hung", "down"]


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """One daemon; ``why`` says why it is not ready."""

    daemon: str
    state: State
    why: str = ""
    pid: int = 0
    endpoints: dict[str, str] = field(default_factory=dict)
    admin: str = ""
    uptime_s: float = 0.0


def daemon_names(state_dir: Path) -> list[str]:
    """The daemons that `propius up` started here; if it did not, those that run now."""
    try:
        names = json.loads((state_dir / "run" / "cluster.json").read_text())["daemons"]
        return [str(name) for name in names]
    except (OSError, ValueError, KeyError):
        return sorted(path.stem for path in (state_dir / "run").glob("*.json"))


def manager_name(number: int) -> str:
    """The name of a client manager."""
    return f"client_manager-{number}"


def statuses(state_dir: Path, names: Sequence[str] | None = None) -> list[DaemonStatus]:
    """One status for each daemon."""
    return [status(state_dir, name) for name in names or daemon_names(state_dir)]


def status(state_dir: Path, name: str) -> DaemonStatus:
    """The status of one daemon."""
    known = run_info(state_dir, name)
    if not known:
        return DaemonStatus(name, "down", "it does not run, or is just starting")
    state, why = _health(str(known["admin"]))
    return DaemonStatus(
        daemon=name,
        state=state,
        why=why,
        pid=int(known["pid"]),
        endpoints=dict(known["endpoints"]),
        admin=str(known["admin"]),
        uptime_s=max(0.0, time.time() - float(known["started_at_s"])),
    )


def dialled(endpoint: str) -> str:
    """The address under which this machine reaches what is bound to all interfaces.

    >>> dialled("tcp://0.0.0.0:50002")
    'tcp://127.0.0.1:50002'
    """
    return endpoint.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def run_info(state_dir: Path, name: str) -> dict[str, Any]:
    """A running daemon's run file; {} if it does not run (a killed one leaves its file)."""
    try:
        known: dict[str, Any] = json.loads((state_dir / "run" / f"{name}.json").read_text())
    except (OSError, ValueError):
        return {}
    return known if is_alive(int(known["pid"])) else {}


def is_alive(pid: int) -> bool:
    """Whether this process exists and has not ended (a zombie has)."""
    try:
        os.kill(pid, 0)
        state = (
            Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0]
        )
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    except (OSError, IndexError):
        return False
    return state not in {"Z", "X"}


def _health(admin: str) -> tuple[State, str]:
    code, text = get(admin, "/readyz")
    if code == 200:
        live, why = get(admin, "/livez")
        return ("hung", why) if live == 503 else ("ready", "")
    if code == 503:
        return "not ready", text
    return "down", text


def get(admin: str, path: str, bytes_max: int = 4_096) -> tuple[int, str]:
    """Status and text of a page of an admin endpoint; 0 and the reason if it does not answer."""
    connection = http.client.HTTPConnection(admin, timeout=HTTP_TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read(bytes_max).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return 0, f"{admin} does not answer: {error}"
    finally:
        connection.close()
