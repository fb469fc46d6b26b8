from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import msgspec
import pytest

from evaluation.harness.processes import LiveError, Processes
from evaluation.jobs.told import ClientsTold, Happened, Ready

TIMEOUT_S = 60.0


class Settings(msgspec.Struct):
    lines: int = 0
    code: int = 0


def module(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> str:
    """A program of its own on the path of the processes."""
    text = """
        import json, sys
        settings = json.loads(sys.argv[1])
        print('{"type":"ready"}', flush=True)
        start = int(sys.stdin.readline())
    """
    (folder / "program.py").write_text(dedent(text) + dedent(body))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return "program"


def test_a_process_that_says_much_is_never_stopped_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Far more than a pipe holds comes through although nobody listens meanwhile.

    Fault F9: job servers wrote into a pipe that nobody read; they stood still after 64 KiB.
    """
    body = """
        for number in range(settings["lines"]):
            print(json.dumps({"type": "happened", "what": "x" * 200, "values": {"n": number}}))
            print("y" * 200, file=sys.stderr)
    """
    with Processes(tmp_path / "logs") as processes:
        started = processes.start("a", module(tmp_path, monkeypatch, body), Settings(lines=5_000))
        processes.wait_ready(TIMEOUT_S)
        processes.begin(1)
        assert started.popen.wait(TIMEOUT_S) == 0
        heard = [processes.hear(TIMEOUT_S) for _ in range(5_000)]
    numbers = [told.values["n"] for told in heard if isinstance(told, Happened)]
    assert numbers == list(range(5_000))
    assert started.log.stat().st_size > 1_000_000


def test_one_that_ends_badly_is_named_with_its_last_word_and_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line says which process, its exit code, and why."""
    body = 'sys.exit("no such thing")'
    with Processes(tmp_path / "logs") as processes:
        started = processes.start("job-3", module(tmp_path, monkeypatch, body), Settings())
        processes.wait_ready(TIMEOUT_S)
        processes.begin(1)
        started.popen.wait(TIMEOUT_S)
        with pytest.raises(LiveError, match=r"job-3 ended with 1: no such thing \(.*job-3\.log\)"):
            processes.check()


def test_a_line_that_is_none_of_ours_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a process prints by mistake is not skipped."""
    with Processes(tmp_path / "logs") as processes:
        body = 'print("hello")'
        processes.start("a", module(tmp_path, monkeypatch, body), Settings())
        processes.wait_ready(TIMEOUT_S)
        processes.begin(1)
        with pytest.raises(LiveError, match="not a line of ours"):
            processes.hear(TIMEOUT_S)


def test_nobody_is_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaving the block ends a process that would wait for ever."""
    with Processes(tmp_path / "logs") as processes:
        started = processes.start("a", module(tmp_path, monkeypatch, ""), Settings())
        assert processes.hear(TIMEOUT_S) == Ready()
    assert started.popen.poll() is not None


def test_rows_of_clients_come_through() -> None:
    """What a dispatcher tells is what the parent reads."""
    from evaluation.jobs.told import read_told
    from evaluation.results.rows import ClientRow

    told = ClientsTold([ClientRow(1, 0.0, 2.5, 3, 2, 1)])
    assert read_told(msgspec.json.encode(told).decode()) == told
