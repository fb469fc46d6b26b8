"""A machine that cannot build Propius is told so in one line that says what to install."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("cut", "dirname", "sh")


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder of programs that is the whole PATH: a shell's few tools, no compiler, no Python."""
    for tool in TOOLS:
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    return tmp_path


def install(machine: Path, name: str, says: str = "", code: int = 0) -> None:
    """Put a program on the machine that says one thing."""
    (machine / name).write_text(f"#!/bin/sh\necho '{says}'\nexit {code}\n")
    (machine / name).chmod(0o755)


def toolchain(machine: Path, what: str) -> subprocess.CompletedProcess[str]:
    """Ask for a part on that machine, whose home is empty."""
    return subprocess.run(
        ["sh", str(ROOT / "scripts" / "toolchain.sh"), what],
        env={"PATH": str(machine), "HOME": str(machine)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def complaint(machine: Path, what: str) -> str:
    """The one line about a part that will not do."""
    done = toolchain(machine, what)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def test_no_rust_compiler(machine: Path) -> None:
    """Without cargo the line asks for Rust, with the least version."""
    install(machine, "cc")
    assert "no Rust compiler found; install Rust >= 1.85" in complaint(machine, "rust")


def test_old_rust_compiler(machine: Path) -> None:
    """An old cargo is named with its version."""
    install(machine, "cc")
    install(machine, "cargo", "cargo 1.70.0 (ec8a8a0ca 2023-04-25)")
    assert "Rust 1.70.0 is too old; install Rust >= 1.85" in complaint(machine, "rust")


def test_no_c_compiler(machine: Path) -> None:
    """Without a C compiler, which links the core, the line says how to get one."""
    assert "no C compiler (cc) found; install one" in complaint(machine, "rust")


def test_no_python(machine: Path) -> None:
    """A Python that is too old, or has no venv module, counts as none."""
    install(machine, "python3", code=1)
    assert "no Python >= 3.11 with venv found; install one" in complaint(machine, "python")


def test_a_later_name_will_do(machine: Path) -> None:
    """Where python3 is too old, python3.12 is taken."""
    install(machine, "python3", code=1)
    install(machine, "python3.12")
    assert toolchain(machine, "python").stdout == f"{machine}/python3.12\n"


def test_rust_outside_the_path(machine: Path) -> None:
    """Cargo is found where rustup puts it, also if PATH does not know that folder."""
    install(machine, "cc")
    folder = machine / ".cargo" / "bin"
    folder.mkdir(parents=True)
    install(folder, "cargo", "cargo 1.85.0 (d73d2caf9 2024-12-31)")
    assert toolchain(machine, "rust").stdout == f"{folder}\n"
