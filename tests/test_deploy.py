"""The deployment files are true: systemd's own tools and supervisord's own parser accept them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from supervisor.options import ServerOptions

from propius.shell.exit_codes import CONFIGURATION

ROOT = Path(__file__).resolve().parent.parent
UNITS = ROOT / "deploy" / "systemd"
EXPOSURE_MAX = 2.5
DRAIN_MAX_S = 5

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze (apt-get install systemd)"
)


def console_scripts() -> set[str]:
    """Names of the programs that the wheel installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return set(project["scripts"])


def copy_units(folder: Path) -> list[Path]:
    """Copy the units to `folder` with programs that exist, as systemd insists on finding them."""
    shutil.copytree(UNITS, folder, dirs_exist_ok=True)
    (folder / "bin").mkdir()
    for name in console_scripts():
        (folder / "bin" / name).symlink_to(shutil.which("true") or "/bin/true")
    for unit in folder.rglob("*.service"):
        unit.write_text(unit.read_text().replace("/opt/propius/bin", f"{folder}/bin"))
    return sorted(path for path in folder.iterdir() if path.suffix in (".service", ".target"))


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze, which works without a running systemd."""
    command = ["systemd-analyze", "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def verify(units: list[Path]) -> str:
    """Everything that `systemd-analyze verify` has to say; it exits 0 for an unknown key."""
    instances = [str(unit).replace("@.", "@0.") for unit in units]
    done = analyze("verify", *instances)
    return done.stdout + done.stderr


@needs_systemd
def test_units_verify_without_a_word(tmp_path: Path) -> None:
    """`systemd-analyze verify` prints nothing about the units and the target."""
    assert verify(copy_units(tmp_path)) == ""


@needs_systemd
def test_verify_reads_the_common_drop_in(tmp_path: Path) -> None:
    """A misspelt key in the common drop-in is found, so the test above means something."""
    units = copy_units(tmp_path)
    drop_in = tmp_path / "propius-.service.d" / "10-common.conf"
    drop_in.write_text(drop_in.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert "WatchdogSecs" in verify(units)


@needs_systemd
def test_exposure_is_low(tmp_path: Path) -> None:
    """Each unit's exposure, as systemd rates it, is at most 2.5 of 10."""
    services = [unit for unit in copy_units(tmp_path) if unit.suffix == ".service"]
    assert len(services) == 4
    report = analyze("security", "--offline=true", *services).stdout
    levels = [float(level) for level in re.findall(r"exposure level for \S+: ([\d.]+)", report)]
    assert len(levels) == len(services), report
    assert max(levels) <= EXPOSURE_MAX, report


def test_units_start_console_scripts() -> None:
    """The units name only programs that the wheel installs, and each controller program once."""
    lines = "\n".join(unit.read_text() for unit in UNITS.glob("*.service"))
    started = re.findall(r"^ExecStart=/opt/propius/bin/(\S+)", lines, re.MULTILINE)
    assert sorted(started) == sorted(console_scripts() - {"propius"})


def test_wrong_configuration_is_not_restarted_by_systemd() -> None:
    """The exit code of a wrong configuration is the one that systemd does not restart."""
    common = (UNITS / "propius-.service.d" / "10-common.conf").read_text()
    assert f"\nRestartPreventExitStatus={CONFIGURATION}\n" in common
    assert "\nRestart=always\n" in common


def test_drained_client_manager_is_not_restarted_by_systemd() -> None:
    """Exit code 0 is the end of a client manager that was drained, and of no other program."""
    kept_down = {
        unit.name: "\nRestartPreventExitStatus=0\n" in unit.read_text()
        for unit in UNITS.glob("*.service")
    }
    assert [name for name, kept in kept_down.items() if kept] == ["propius-client-manager@.service"]


def parse_supervisord(run: Path, monkeypatch: pytest.MonkeyPatch) -> ServerOptions:
    """Read the root's supervisord.conf as supervisord does."""
    monkeypatch.setenv("PROPIUS_CONFIG", "/etc/propius/config.yml")
    monkeypatch.setenv("PROPIUS_RUN", str(run))
    options = ServerOptions()
    options.realize(["-c", str(ROOT / "supervisord.conf")])
    return options


def test_supervisord_runs_every_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """supervisord.conf parses, keeps its program names and runs only console scripts."""
    groups = parse_supervisord(tmp_path, monkeypatch).process_group_configs
    programs = {group.name: group.process_configs[0].command.split() for group in groups}
    assert sorted(programs) == [
        "client_manager_0",
        "client_manager_1",
        "job_manager",
        "load_balancer",
        "scheduler",
    ]
    assert {command[0] for command in programs.values()} == console_scripts() - {"propius"}
    assert programs["client_manager_1"][1] == "1"
    for command in programs.values():
        assert command[-2:] == ["--config", "/etc/propius/config.yml"]


def test_supervisord_restarts_all_but_a_wrong_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time to drain, a restart but after exit code 2 (a client manager: or 0), a log of its own."""
    groups = parse_supervisord(tmp_path, monkeypatch).process_group_configs
    configs = [group.process_configs[0] for group in groups]
    for config in configs:
        drained = [0] if config.name.startswith("client_manager") else []
        assert config.exitcodes == [*drained, CONFIGURATION]
        assert config.autorestart is not False
        assert config.stopwaitsecs > DRAIN_MAX_S
        assert config.stopasgroup
        assert config.killasgroup
    assert len({config.stdout_logfile for config in configs}) == len(configs)


def test_supervisorctl_socket_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The socket for supervisorctl belongs to its owner alone."""
    (server,) = parse_supervisord(tmp_path, monkeypatch).server_configs
    assert server["chmod"] == 0o700
    assert server["file"] == str(tmp_path / "supervisor.sock")
