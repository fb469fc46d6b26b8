"""A bug is planted, noticed or not, and taken out again; the score counts what was tried."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.places import Place
from tests.mutation.score import Score, equivalents, scores
from tests.mutation.trial import CORE, Copy, Module, Trial, copy_of, modules

TEST = '''\
"""A test."""
from code_under_test import double


def test_double():
    """Twice."""
    assert double(2) == 4
'''


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """A clone of a repository with one function and one test."""
    origin = tmp_path / "origin"
    (origin / "propius").mkdir(parents=True)
    (origin / CORE).write_bytes(b"")
    (origin / "propius/__init__.py").touch()
    (origin / ".gitignore").write_text("*.so\n")
    (origin / "code_under_test.py").write_text("def double(n):\n    return n * 2\n")
    (origin / "test_it.py").write_text(TEST)
    who = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    return copy_of(origin, tmp_path / "copy", timeout_s=30.0)


@pytest.mark.parametrize(
    "by,verdict",
    [("n + 2", "survived"), ("n * 3", "killed"), ("[double(n) for _ in iter(int, 1)]", "killed")],
)
def test_verdict_is_what_the_tests_say(copy: Copy, by: str, verdict: str) -> None:
    """A bug that no test notices survives; the file is as it was afterwards."""
    before = (copy.root / "code_under_test.py").read_text()
    place = Place("code_under_test.py", "changed", lambda text: text.replace("n * 2", by))
    trial = copy.try_out("module", Module(tests=["test_it.py"]), place)
    assert trial.verdict == verdict
    assert (trial.by == "") == (verdict == "survived")
    assert (copy.root / "code_under_test.py").read_text() == before


def test_bug_that_never_ends_is_noticed(copy: Copy) -> None:
    """Tests that hang are ended, with what they started."""
    hasty = Copy(copy.root, copy.commit, timeout_s=3.0)
    endless = "[0 for _ in iter(int, 1)]"
    place = Place("code_under_test.py", "changed", lambda text: text.replace("n * 2", endless))
    assert hasty.try_out("module", Module(tests=["test_it.py"]), place).verdict == "hung"


def test_tests_that_fail_without_a_bug_are_refused(copy: Copy) -> None:
    """Every bug would seem to be noticed."""
    (copy.root / "code_under_test.py").write_text("def double(n):\n    return 0\n")
    with pytest.raises(RuntimeError, match="without a bug, killed"):
        copy.baseline(Module(tests=["test_it.py"]))


def test_last_trial_counts_and_equivalents_do_not() -> None:
    """A survivor that a new test notices is noticed; one that nobody can see is left out."""
    trials = [
        Trial("m", "a", "survived", "", 1.0, "1"),
        Trial("m", "a", "killed", "pytest", 1.0, "2"),
        Trial("m", "b", "survived", "", 1.0, "1"),
        Trial("m", "c", "survived", "", 1.0, "1"),
        Trial("m", "d", "unviable", "cargo", 1.0, "1"),
    ]
    score = scores(trials, {"c": "the two orders are the same"})["m"]
    assert (score.tried, score.noticed, score.equivalent) == (2, 1, 1)
    assert [each.key for each in score.survivors] == ["b"]


def test_interval_of_nothing_is_everything() -> None:
    """No trial says nothing."""
    assert Score().interval() == (0.0, 1.0)


def test_tables_of_the_repository_can_be_read() -> None:
    """Every module has sources and tests that are there, and every equivalent an argument."""
    root = Path(__file__).resolve().parents[2]
    for name, module in modules().items():
        sources = [path for glob in (*module.rust, *module.python) for path in root.glob(glob)]
        assert sources, name
        wanted = [f"rust_core/tests/{each}.rs" for each in module.cargo]
        assert all((root / each).exists() for each in (*wanted, *module.tests, *module.ignore))
    assert all(len(why) > 20 for why in equivalents().values())


def test_command_counts_lines(tmp_path: Path) -> None:
    """A table for people and one document for programs; a cut last line is no error."""
    lines = tmp_path / "lines.jsonl"
    whole = '{"module":"sdk","key":"a","verdict":"killed","by":"x","seconds":1.0,"commit":"1"}\n'
    lines.write_text(whole + '{"module":"sdk","k')
    script = Path(__file__).resolve().parents[2] / "scripts" / "mutants.py"
    command = [sys.executable, str(script), "score", str(lines)]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True)
    assert '"noticed": 1' in done.stdout
    assert lines.read_text() == whole
