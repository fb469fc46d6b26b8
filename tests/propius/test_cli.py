"""The ``propius`` command as a person and a program use it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from propius.cli.cluster import Cluster, ClusterError, NotReadyError, free_ports
from propius.cli.status import statuses
from propius.config import ConfigError, config_yaml, load_config
from propius.job import Job


def propius(*arguments: str | Path, code: int = 0, **env: str) -> str:
    """Run the command, check its exit code, return what it printed (errors if it failed)."""
    done = subprocess.run(
        [sys.executable, "-m", "propius.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "200", **env},
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with ports and a state directory of the test's own."""
    ports = free_ports(5)
    values = {
        "state_dir": str(tmp_path / "state"),
        "job_manager": {"port": ports[0], "inside_port": ports[1], "admin_port": 0},
        "load_balancer": {"port": ports[2], "inside_port": ports[3], "admin_port": 0},
        "scheduler": {"port": ports[4], "admin_port": 0},
        "client_manager": {"admin_port_base": 0},
    }
    file = tmp_path / "config.yml"
    file.write_text(config_yaml(values))
    return file


def test_help_teaches_the_commands() -> None:
    """The first help lists every command, also those that other packages bring."""
    text = propius("--help")
    commands = (
        "up",
        "down",
        "status",
        "wait-ready",
        "job",
        "config",
        "client-manager",
        "demo",
        "log",
    )
    for command in commands:
        assert f" {command} " in text, command


def test_unknown_command_exits_2() -> None:
    """A misspelt command is named."""
    assert "stauts" in propius("stauts", code=2)


def test_config_check_accepts_and_refuses(tmp_path: Path) -> None:
    """Right: one line. Wrong: one line with place and key, and exit code 2."""
    file = tmp_path / "c.yml"
    file.write_text("scheduler: {policy: fifo}")
    assert "right" in propius("config", "check", file)
    file.write_text("scheduler: {polcy: fifo}")
    said = propius("config", "check", file, code=2)
    assert said.startswith(f"propius: {file}:1: scheduler.polcy: unknown key")
    assert said.count("\n") == 1


def test_config_show_prints_what_holds(tmp_path: Path) -> None:
    """As YAML that loads again, or as JSON."""
    shown = propius("config", "show", PROPIUS_SCHEDULER__POLICY="fifo")
    file = tmp_path / "c.yml"
    file.write_text(shown)
    assert load_config(file, {}).scheduler.policy == "fifo"
    assert json.loads(propius("config", "show", "--json"))["scheduler"]["policy"] == "irs"


def test_commands_without_a_system_say_so(config: Path) -> None:
    """Nothing runs: status and wait-ready fail with a word, down is content, jobs need a key."""
    propius("status", "--config", config, code=1)
    assert "not ready" in propius("wait-ready", "--config", config, "--timeout", "0", code=1)
    assert "nothing runs" in propius("down", "--config", config)
    assert "operator.key" in propius("job", "list", "--config", config, code=1)
    assert "load_balancer" in propius("client-manager", "list", "--config", config, code=1)
    for verb in ("drain", "add"):
        said = propius("client-manager", verb, "1", "--config", config, code=1)
        assert "no system here" in said
        assert said.count("\n") == 1


@pytest.fixture
def detached(config: Path) -> Iterator[Path]:
    """The configuration of a system that runs detached."""
    propius("up", "--detach", "--managers", "1", "--config", config)
    yield config
    propius("down", "--config", config)


def test_a_system_from_up_to_down(detached: Path) -> None:
    """up --detach, status, job list/show/cancel, up again (refused), down; nothing is left."""
    found = json.loads(propius("status", "--json", "--config", detached))
    assert {each["state"] for each in found} == {"ready"}
    assert len(found) == 4
    assert "ready" in propius("status", "--config", detached)
    assert "ready" in propius("wait-ready", "--config", detached)

    endpoint = next(each for each in found if each["daemon"] == "job_manager")["endpoints"]["jobs"]
    with Job(endpoint, name="speech", requirement={"ram": 2.0}, demand=3) as job:
        assert "speech" in propius("job", "list", "--config", detached)
        shown = json.loads(propius("job", "show", str(job.id), "--json", "--config", detached))
        assert (shown["name"], shown["demand"]) == ("speech", 3)
        propius("job", "cancel", str(job.id), "--reason", "enough", "--config", detached)
        (listed,) = json.loads(propius("job", "list", "--json", "--config", detached))
        assert (listed["state"], listed["reason"]) == ("cancelled", "enough")
    assert "no job 99" in propius("job", "show", "99", "--config", detached, code=1)
    assert "runs here already" in propius("up", "--detach", "--config", detached, code=1)

    assert "stopped" in propius("down", "--config", detached)
    for each in found:
        assert not Path(f"/proc/{each['pid']}").exists()
    assert {each.state for each in statuses(load_config(detached).state_dir)} == {"down"}


def test_interrupt_stops_a_system_in_the_foreground(config: Path) -> None:
    """Ctrl-C stops all daemons and exits 0."""
    command = [
        sys.executable,
        "-m",
        "propius.cli",
        "up",
        "--managers",
        "1",
        "--config",
        str(config),
    ]
    env = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
        timer = threading.Timer(90, process.kill)
        timer.start()
        assert process.stdout is not None
        assert process.stdout.readline().startswith("ready: devices at tcp://127.0.0.1:")
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().endswith("stopped\n")
        assert process.wait() == 0
        timer.cancel()
    assert {each.state for each in statuses(load_config(config).state_dir)} == {"down"}


def test_wrong_overrides_are_refused_before_anything_starts(tmp_path: Path) -> None:
    """A cluster checks what it is given like any configuration."""
    with pytest.raises(ConfigError, match=r"scheduler\.polcy"):
        Cluster(tmp_path, overrides={"scheduler": {"polcy": "x"}}).start()
    with pytest.raises(ClusterError, match="at least one"):
        Cluster(tmp_path, managers=0)


def test_daemon_that_refuses_to_start_ends_the_wait(tmp_path: Path) -> None:
    """A policy that cannot be loaded keeps the scheduler down; it says why, nothing is left."""
    cluster = Cluster(tmp_path, managers=1, overrides={"scheduler": {"policy": "no_such:Policy"}})
    with pytest.raises(ClusterError, match=r"scheduler\.policy: .*no_such"), cluster:
        pytest.fail("it was ready")
    assert {each.state for each in cluster.statuses()} == {"down"}


def test_system_that_is_not_ready_in_time_says_what_is_missing(tmp_path: Path) -> None:
    """Every daemon that was waited for is named."""
    cluster = Cluster(tmp_path, managers=1)
    cluster.start()
    try:
        with pytest.raises(NotReadyError, match=r"job_manager: .*client_manager-0: "):
            cluster.wait_ready(0)
    finally:
        cluster.stop()
    assert {each.state for each in cluster.statuses()} == {"down"}
