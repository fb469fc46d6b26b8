"""What the documents tell people to type exists: every command, option and make target."""

from __future__ import annotations

import re
import shlex
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
from propius.testing import FakeServer

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "deploy/**/*.md", "benches/*.md", "datasets/*.md")
    for path in ROOT.glob(pattern)
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:propius|make) [^`\n]+)`")
PLACEHOLDER = re.compile(r"\b(FILE|DIR|JOB|TRACE|RUN|A-B|SEED|NAME|N|ID)\b")


def typed(page: Path) -> Iterator[str]:
    """The command lines of a page: those of its blocks, and those that stand in its text."""
    text = page.read_text()
    for language, block in BLOCK.findall(text):
        if language in {"", "sh", "console"}:
            for line in block.replace("\\\n", " ").splitlines():
                yield line.strip().removeprefix("$ ")
    yield from INLINE.findall(BLOCK.sub("", text))


def lines(first: str) -> list[tuple[str, str]]:
    """(page, command) of all that begin with a word."""
    found = {
        (str(page.relative_to(ROOT)), line.partition("  #")[0].strip())
        for page in PAGES
        for line in typed(page)
        if line.split(" ", 1)[0].removeprefix(".venv/bin/") == first
    }
    return sorted(found)


def program() -> Any:
    """The whole program, with what other packages bring."""
    whole = typer.Typer()
    found = {entry.name: entry for entry in entry_points(group=cli.COMMANDS_GROUP)}
    whole.registered_groups = list(cli.app.registered_groups)
    whole.registered_callback = cli.app.registered_callback
    whole.registered_commands = [
        each for each in cli.app.registered_commands if each.name not in found
    ]
    for name, entry in found.items():
        app = entry.load()
        if len(app.registered_commands) == 1 and not app.registered_callback:
            whole.command(name)(app.registered_commands[0].callback)
        else:
            whole.add_typer(app, name=name)
    return get_command(whole)


@pytest.fixture(scope="module")
def whole() -> Any:
    """Made once."""
    return program()


@pytest.mark.parametrize("page, line", lines("propius"))
def test_documented_command_exists(whole: Any, page: str, line: str) -> None:
    """Each word is a command or an option of it, as far as the line goes."""
    words = shlex.split(line.replace("…", ""))[1:]
    command = whole
    while words and (inner := getattr(command, "commands", None)):
        if words[0].startswith("-"):
            break
        assert words[0] in inner, f"{page}: {line}"
        command = inner[words.pop(0)]
    known = {option for each in command.params for option in (*each.opts, *each.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known | {"--help"}, f"{page}: {line}"


@pytest.mark.parametrize("page, line", lines("make"))
def test_documented_make_target_exists(page: str, line: str) -> None:
    """`make help` knows it."""
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    words = [word for word in shlex.split(line)[1:] if "=" not in word and not word.startswith("-")]
    assert all(word in targets for word in words), f"{page}: {line}"


def scripts() -> list[tuple[str, str]]:
    """(page, command) of all that run a script of ours."""
    is_script = re.compile(r"(?:\.venv/bin/python )?scripts/\w+\.(?:py|sh)").match
    found = {(str(page.relative_to(ROOT)), line) for page in PAGES for line in typed(page)}
    return sorted(each for each in found if is_script(each[1]))


@pytest.mark.parametrize("page, line", scripts())
def test_documented_script_exists_and_knows_its_options(page: str, line: str) -> None:
    """Each option stands in the script's own help or text."""
    words = shlex.split(line.partition("  #")[0])
    script = next(word for word in words if word.startswith("scripts/"))
    text = (ROOT / script).read_text()
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in text, f"{page}: {line}"


def test_documents_have_commands() -> None:
    """The search finds what is there, so that the tests above cannot be empty."""
    assert len(lines("propius")) > 30
    assert len(lines("make")) > 8


# --- the README's Python ------------------------------------------------------------------------


def blocks() -> list[str]:
    """The Python blocks of the README, in order."""
    found = BLOCK.findall((ROOT / "README.md").read_text())
    return [block for language, block in found if language == "python"]


JOB_SIDE = """
import os
{block}
"""
DEVICE_SIDE = """
import os, propius
def train(endpoint: str, token: bytes) -> None:
    print("trained with", endpoint)
{block}
"""


def test_readme_python_runs(tmp_path: Path) -> None:
    """The job's block and the device's, word for word but for the addresses and the waits."""
    job, device = blocks()
    with FakeServer() as server:
        for name, frame, block in (("job", JOB_SIDE, job), ("device", DEVICE_SIDE, device)):
            code = re.sub(r"tcp://127\.0\.0\.1:5000[12]", server.endpoint, block)
            code = code.replace("wait_s=60", "wait_s=1").replace('"ram": 4.0', '"ram": 4')
            (tmp_path / f"{name}.py").write_text(frame.format(block=code))
        started = [
            subprocess.Popen(
                [sys.executable, "-W", "error", f"{name}.py"], cwd=tmp_path, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "PATH": ""},
            )
            for name in ("device", "job")
        ]  # fmt: skip
        said = [process.communicate(timeout=60)[0] for process in started]
        assert [process.returncode for process in started] == [0, 0], said
        assert server.tiny.jobs[1].state == "completed"


def test_readme_python_is_typed(tmp_path: Path) -> None:
    """mypy --strict has nothing to say of it."""
    job, device = blocks()
    (tmp_path / "job.py").write_text(JOB_SIDE.format(block=job))
    (tmp_path / "device.py").write_text(DEVICE_SIDE.format(block=device))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"),
         "--follow-imports", "silent", str(tmp_path / "job.py"), str(tmp_path / "device.py")],
        cwd=ROOT, capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
