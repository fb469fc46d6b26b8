"""Planting bugs, one at a time, in a copy of the repository, and asking its tests.

The copy is a clone of what is committed, below a folder of the caller's, with build folders of its
own; programs that tests start come from the installed checkout and do not have the bug, so that the
tests named in ``modules.toml`` are those that stay in their process.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final, Literal

import msgspec
from msgspec import Struct

from tests.mutation.places import Place, python_places, rust_places

HERE: Final = Path(__file__).parent
MANIFEST: Final = "rust_core/Cargo.toml"
CORE: Final = "propius/_core.abi3.so"

Verdict = Literal["killed", "hung", "survived", "unviable"]


class Module(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A row of ``modules.toml``."""

    rust: list[str] = []
    python: list[str] = []
    cargo: list[str] = []
    tests: list[str] = []
    ignore: list[str] = []


class Trial(Struct, frozen=True):
    """What became of one bug; ``commit`` is what it was planted in."""

    module: str
    key: str
    verdict: Verdict
    by: str
    """The command that noticed it, or "" if none did."""
    seconds: float
    commit: str


def modules() -> dict[str, Module]:
    """What can be mutated, by name."""
    table = tomllib.loads((HERE / "modules.toml").read_text())
    return msgspec.convert(table, dict[str, Module])


@dataclass(frozen=True)
class Copy:
    """A clone in which bugs are planted."""

    root: Path
    commit: str
    timeout_s: float

    def try_out(self, name: str, module: Module, place: Place) -> Trial:
        """Plant one bug, of a :func:`sample`, and run the tests."""
        path = self.root / place.path
        text = path.read_text()
        changed = place.change(text)
        assert changed is not None
        core = (self.root / CORE).read_bytes()
        began = time.monotonic()
        path.write_text(changed)
        try:
            verdict, by = self._ask(module)
        finally:
            path.write_text(text)
            if module.rust:
                (self.root / CORE).write_bytes(core)
        took = round(time.monotonic() - began, 1)
        return Trial(name, place.key, verdict, by, took, self.commit)

    def baseline(self, module: Module) -> None:
        """Raises RuntimeError unless the tests pass without a bug."""
        verdict, by = self._ask(module)
        if verdict != "survived":
            raise RuntimeError(f"without a bug, {verdict} by: {by}")

    def _ask(self, module: Module) -> tuple[Verdict, str]:
        for command in self._commands(module):
            is_build = "--no-run" in command or "build" in command
            shown = " ".join(command[1:])
            try:
                is_bad = self._run(command) != 0
            except subprocess.TimeoutExpired:
                return "hung", shown
            if is_bad:
                return "unviable" if is_build else "killed", shown
            if "build" in command:
                shutil.copy(self.root / "target/release/lib_core.so", self.root / CORE)
        return "survived", ""

    def _commands(self, module: Module) -> Iterator[list[str]]:
        cargo = ["cargo", "test", "--quiet", "--locked", "--manifest-path", MANIFEST]
        if module.rust:
            targets = ["--lib", *(part for name in module.cargo for part in ("--test", name))]
            yield [*cargo, *targets, "--no-run"]
            yield [*cargo, *targets]
            yield [
                "cargo", "build", "--quiet", "--locked", "--release", "--manifest-path", MANIFEST,
                "--features", "python",
            ]  # fmt: skip
        tests = [name for name in module.tests if (self.root / name).exists()]
        if tests:
            ignored = [f"--ignore={name}" for name in module.ignore]
            yield [
                sys.executable, "-m", "pytest", "--quiet", "--exitfirst", "-p", "no:cacheprovider",
                *tests, *ignored,
            ]  # fmt: skip

    def _run(self, command: Sequence[str]) -> int:
        with subprocess.Popen(
            command, cwd=self.root, env=self._environment(), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process:  # fmt: skip
            try:
                return process.wait(self.timeout_s)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)  # with all that the tests started

    def _environment(self) -> dict[str, str]:
        quick = {
            "CARGO_TARGET_DIR": str(self.root / "target"),
            "CARGO_PROFILE_DEV_DEBUG": "0",
            "CARGO_PROFILE_RELEASE_LTO": "off",
            "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16",
            "CARGO_PROFILE_RELEASE_INCREMENTAL": "true",
            "PYO3_PYTHON": sys.executable,
            "PYTHONDONTWRITEBYTECODE": "1",
            "RUSTFLAGS": "--cap-lints=allow",
        }
        return os.environ | quick


def copy_of(repository: Path, folder: Path, timeout_s: float) -> Copy:
    """A clone of what is committed in the repository, new or brought up to date."""
    git = ["git", "-C", str(folder)]
    if not (folder / ".git").exists():
        command = ["git", "clone", "--quiet", "--shared", str(repository), str(folder)]
        subprocess.run(command, check=True)
    commit = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", "HEAD"],
        capture_output=True, check=True, text=True,
    ).stdout.strip()  # fmt: skip
    subprocess.run([*git, "fetch", "--quiet", str(repository), "HEAD"], check=True)
    subprocess.run([*git, "checkout", "--quiet", "--force", "--detach", commit], check=True)
    shutil.copy(repository / CORE, folder / CORE)
    return Copy(folder, commit, timeout_s)


def places(root: Path, module: Module) -> list[Place]:
    """All bugs of a module, in a fixed order."""
    paths = sorted(
        str(path.relative_to(root)) for pattern in module.python for path in root.glob(pattern)
    )
    rust = list(rust_places(root, module.rust)) if module.rust else []
    return [*rust, *python_places(root, paths)]


def sample(root: Path, module: Module, number: int, seed: int) -> Iterator[Place]:
    """So many bugs of a module, drawn from the seed; a smaller sample begins a larger one."""
    found = places(root, module)
    drawn = random.Random(seed).sample(found, len(found))
    effective = (place for place in drawn if place.change((root / place.path).read_text()))
    return islice(effective, number)
