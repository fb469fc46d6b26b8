"""The commit is that of a checkout which holds Propius, and of no other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from evaluation.results import provenance as module
from evaluation.results.provenance import provenance


def git(folder: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", *who, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the module in it, which takes the place of the real one."""
    shutil.copyfile(str(module.__file__), tmp_path / "provenance.py")
    git(tmp_path, "init", "--quiet")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "provenance.py"))
    return tmp_path


def test_commit_is_that_of_the_checkout(checkout: Path) -> None:
    """With a plus once a tracked file was changed."""
    git(checkout, "add", ".")
    git(checkout, "commit", "--quiet", "--message", "first")
    head = git(checkout, "rev-parse", "HEAD")
    assert provenance()["commit"] == head
    (checkout / "provenance.py").write_text("changed")
    assert provenance()["commit"] == head + "+"


def test_installed_in_somebodys_checkout_is_no_commit(checkout: Path) -> None:
    """A virtual environment inside another project is not of that project's commit."""
    (checkout / "own.txt").touch()
    git(checkout, "add", "own.txt")
    git(checkout, "commit", "--quiet", "--message", "first")
    assert provenance()["commit"] is None
