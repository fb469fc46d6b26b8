"""Where a result comes from: which code and packages, which command, which machine.

Not here: what went into the run (:mod:`evaluation.harness.inputs`).
"""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

__all__ = ["provenance"]

PACKAGES: Final = (
    "propius", "msgpack", "msgspec", "mlxtend", "numpy", "pyzmq", "scikit-learn", "scipy", "torch",
)  # fmt: skip
GIT_S: Final = 10.0
CPU_INFO: Final = Path("/proc/cpuinfo")


def provenance() -> dict[str, Any]:
    """``versions``, ``commit``, ``command`` and ``hardware``, as JSON knows them.

    ``commit`` is None outside a git checkout of Propius, and ends in ``+`` where files that git
    tracks were changed since.

    >>> sorted(provenance())
    ['command', 'commit', 'hardware', 'versions']
    """
    return {
        "versions": _versions(),
        "commit": _commit(Path(__file__).resolve().parent),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "hardware": _hardware(),
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _commit(folder: Path) -> str | None:
    """Of the checkout that holds ``folder``, if git tracks it there."""
    head = _git(folder, "rev-parse", "HEAD")
    if head is None or _git(folder, "ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no", ":/")
    return head + ("+" if changed else "")


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True,
            timeout=GIT_S,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None  # no git, no checkout, or not of this file: nothing to say
    return done.stdout.strip()


def _hardware() -> dict[str, Any]:
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "gpus": _gpus(),
    }


def _processor() -> str:
    lines = CPU_INFO.read_text().splitlines() if CPU_INFO.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def _gpus() -> list[str]:
    """By name; asks torch only where the run has loaded it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
