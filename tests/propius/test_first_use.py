"""What somebody meets who uses Propius for the first time, and does it wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.main import get_command

from propius.cli import app as cli
from propius.cli.jobs import _table, readable
from propius.config import ConfigError, load_config
from propius.messages import JobStatus

HIDE = """
import sys
for name in {hidden!r}:
    sys.modules[name] = None
sys.argv = ["propius", *{arguments!r}]
from {module} import main
main()
"""


def without(hidden: list[str], module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in which these modules are not installed."""
    code = HIDE.format(hidden=hidden, arguments=arguments, module=module)
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    "module",
    [f"daemons.{name}.main" for name in ("scheduler", "job_manager", "load_balancer")]
    + ["daemons.client_manager.main", "propius.cli"],
)
def test_program_without_its_extra_names_it(module: str) -> None:
    """An SDK-only environment has none of these; one line says what to install."""
    hidden = ["structlog", "pydantic", "yaml", "typer", "rich", "prometheus_client", "msgpack"]
    done = without(hidden, module, "0")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("propius")
    assert line.endswith("pip install 'propius[daemons]'")


@pytest.mark.parametrize(
    "arguments, extra",
    [
        (["eval", "run", "x.yml", "--virtual"], "daemons,evaluation"),
        (["trace", "info", "x.csv"], "daemons,evaluation"),
        (["demo", "--policy", "irs"], "daemons,evaluation"),
        (["demo", "--help"], "daemons,evaluation"),
    ],
)
def test_command_without_its_extra_names_it(arguments: list[str], extra: str) -> None:
    """Whatever it is called with; not "unexpected extra arguments"."""
    done = without(["numpy", "scipy", "sklearn", "matplotlib"], "propius.cli", *arguments)
    assert done.returncode == 2, done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"propius {arguments[0]}: it needs ")
    assert line.endswith(f"pip install 'propius[{extra}]'")


def test_training_without_torch_names_the_extra(tmp_path: Path) -> None:
    """The configuration is right; torch is a large download that the run needs."""
    done = without(["torch"], "propius.cli", "eval", "run", "--virtual", "--out", str(tmp_path))
    assert done.returncode == 2, done.stdout
    (line,) = done.stderr.splitlines()
    assert line == (
        "propius eval run: it needs torch: pip install 'propius[daemons,evaluation,training]'"
    )


def test_state_directory_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    """Nor one below a file: which path, why, and which option."""
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "state"):
        done = subprocess.run(
            [sys.executable, "-m", "propius.cli", "up", "--state-dir", str(place)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"propius: {place}: ")
        assert "--state-dir" in line


def test_state_directory_that_cannot_be_written_is_one_line() -> None:
    """A place where nobody may make a folder, not even root."""
    done = subprocess.run(
        [sys.executable, "-m", "propius.cli", "up", "--state-dir", "/proc/propius"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("propius: /proc/propius: ")


# --- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, key",
    [
        ("scheduler: {policy_options: {fairness: yes}}", "scheduler.policy_options"),
        ("job_manager: {port: on}", "job_manager.port"),
        ("log: {level: off}", "log.level"),
    ],
)
def test_yes_is_no_number(tmp_path: Path, text: str, key: str) -> None:
    """YAML's yes and on would count as 1; the line says where, and what to write."""
    path = tmp_path / "config.yml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"must not be (true|false)") as caught:
        load_config(path, env={})
    assert str(caught.value).startswith(f"{path}:1: {key}: ")


def test_misspelt_key_is_connected_with_the_missing_one(tmp_path: Path) -> None:
    """One mistake is one complaint that tells both halves."""
    path = tmp_path / "config.yml"
    path.write_text("schema:\n  attributes:\n    - {nmae: cpu_f, max: 3}\n")
    with pytest.raises(ConfigError, match=r"name: missing; is it the unknown key .*nmae\?"):
        load_config(path, env={})


# --- what commands print -------------------------------------------------------------------------

FRESH = JobStatus(
    job=3, name="keyboard", state="cancelled", reason="", requirement=[0.0, 4.0],
    requirement_id=1, demand=20, rounds=0, rounds_done=1, round=1, round_state="ended",
    allocated=0, round_demand=20, devices_completed=0, devices_failed=0, devices_expired=0,
    registered_at_s=1.7e9, age_s=5.0, waiting_s=0.0, mean_scheduling_delay_s=-1.0,
    mean_response_s=-1.0, jct_s=-1.0,
)  # fmt: skip


def test_job_is_shown_with_names_and_without_sentinels() -> None:
    """Vectors have names, and what there is not yet is no -1."""
    rows = readable(FRESH, ["cpu_f", "ram"])
    assert rows["requirement"] == "ram ≥ 4"
    assert rows["scheduling delay"] == rows["response time"] == rows["completion time"] == "-"
    assert not any("-1.0" in value or "-1 " in value for value in rows.values())
    assert (
        readable(replace_status(requirement=[0.0, 0.0]), ["cpu_f", "ram"])["requirement"] == "any"
    )
    assert readable(replace_status(mean_response_s=90.0), [])["response time"] == "90 s (mean)"


def replace_status(**changes: Any) -> JobStatus:
    import msgspec

    return msgspec.structs.replace(FRESH, **changes)


def test_rounds_of_a_job_read_as_a_sentence() -> None:
    """How many are done, of how many if that is known, and what the last one is doing."""

    def cell(job: JobStatus) -> str:
        return str(next(iter(_table([job]).columns[3].cells)))

    assert cell(FRESH) == "1 done, 1 ended"
    assert cell(replace_status(rounds=9, round_state="open")) == "1/9 done, 1 open"
    assert cell(replace_status(round=-1, rounds_done=0, round_state="")) == "0 done"


def commands() -> Iterator[tuple[str, Any]]:
    """Every command of the program, those of other packages loaded."""
    whole = typer.Typer()
    whole.registered_groups = list(cli.app.registered_groups)
    found = {entry.name: entry for entry in entry_points(group=cli.COMMANDS_GROUP)}
    whole.registered_commands = [
        each for each in cli.app.registered_commands if each.name not in found
    ]
    for name, entry in found.items():
        app = entry.load()
        if len(app.registered_commands) == 1 and not app.registered_callback:
            whole.command(name)(app.registered_commands[0].callback)
        else:
            whole.add_typer(app, name=name)

    def walk(command: Any, path: str) -> Iterator[tuple[str, Any]]:
        inner = getattr(command, "commands", None)
        if inner is None:
            yield path.strip(), command
            return
        for name, each in inner.items():
            yield from walk(each, f"{path} {name}")

    yield from walk(get_command(whole), "")


PROGRAMS = {"eval executor", "eval worker"}
"""They run until they are stopped, and write a log."""


def test_every_command_that_prints_has_json() -> None:
    """Programs read what people read."""
    lacking = {
        path
        for path, command in commands()
        if not any("--json" in each.opts for each in command.params)
    }
    assert lacking == PROGRAMS


def test_version_is_printed() -> None:
    """As every program does."""
    done = subprocess.run(
        [sys.executable, "-m", "propius.cli", "--version"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.startswith("propius ")


@pytest.mark.parametrize(
    "line, words", [("propius sim", {"simulate"}), ("propius eval r", {"run", "report"})]
)
def test_shell_completes_commands_of_every_package(line: str, words: set[str]) -> None:
    """Also those inside a group that another package brings."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("propius"))],
        env=os.environ
        | {"_PROPIUS_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert all(f'"{word}"' in done.stdout for word in words), done.stdout


def test_json_of_a_command_is_one_document(tmp_path: Path) -> None:
    """Standard output holds nothing else."""
    done = subprocess.run(
        [sys.executable, "-m", "propius.cli", "trace", "generate", "--checkins", "50", "--json",
         "--out", str(tmp_path / "t.csv")],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert json.loads(done.stdout)["checkins"] == 50
