"""The programs in examples/ are short, and do what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import ClassVar

import pytest

from propius.messages import CheckIn, Header, Message
from propius.testing import Answers, FakeServer, TinyPropius

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def start(name: str, *arguments: str, home: Path) -> subprocess.Popen[str]:
    """Run an example with warnings as errors."""
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments]
    environment = {**os.environ, "XDG_DATA_HOME": str(home)}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=home,
    )


@pytest.mark.parametrize("name, lines_max", [("job.py", 25), ("client.py", 15)])
def test_an_example_is_as_short_as_promised(name: str, lines_max: int) -> None:
    """The README promises these lengths."""
    assert len((EXAMPLES / name).read_text().splitlines()) <= lines_max


def test_the_example_job_is_served_by_the_example_client(tmp_path: Path) -> None:
    """Both end by themselves; the job has had its three rounds and is completed."""
    with FakeServer() as server:
        client = start("client.py", server.endpoint, "2", home=tmp_path)
        job = start("job.py", server.endpoint, "1", home=tmp_path)
        told_by_job, _ = job.communicate(timeout=60)
        told_by_client, _ = client.communicate(timeout=60)
        assert (job.returncode, client.returncode) == (0, 0), told_by_job + told_by_client
        assert told_by_job.count("completed: 1 devices") == 3
        assert told_by_client.count("job 1 round") == 3
        assert server.tiny.jobs[1].state == "completed"


def test_of_four_example_clients_one_serves_and_three_say_why_not(tmp_path: Path) -> None:
    """Three end at once, each with the one line; a killed holder leaves nothing behind."""
    with FakeServer() as server, ThreadPoolExecutor(4) as waiting:
        clients = [start("client.py", server.endpoint, "600", home=tmp_path) for _ in range(4)]
        try:
            told: dict[Future[tuple[str, str]], subprocess.Popen[str]] = {
                waiting.submit(client.communicate): client for client in clients
            }
            ends = as_completed(told, timeout=60)
            for _ in range(3):
                ended = next(ends)
                assert told.pop(ended).returncode == 1
                assert ended.result()[0] == (
                    f"propius.errors.DeviceIdInUseError: {tmp_path}/propius/device_id: another"
                    " running client goes by this device id; close it, or give this one its own:"
                    " device_id=propius.ephemeral_id() (for this run), or another folder in"
                    " XDG_DATA_HOME (kept)\n"
                )
            job = start("job.py", server.endpoint, "1", home=tmp_path)
            assert job.communicate(timeout=60)[0].count("completed: 1 devices") == 3
        finally:
            for client in clients:
                client.kill()
        ((served, holder),) = told.items()
        assert served.result()[0].count("job 1 round") == 3
        assert holder.returncode == -signal.SIGKILL
        after = start("client.py", server.endpoint, "0", home=tmp_path)
        assert after.communicate(timeout=60)[0] == ""
        assert after.returncode == 0


def test_four_ephemeral_example_clients_are_four_devices(tmp_path: Path) -> None:
    """Each has an id of its own, which is kept nowhere, and none is refused."""

    class Census(TinyPropius):
        """A tiny Propius that knows who has checked in."""

        seen: ClassVar[set[str]] = set()

        def receive(self, now_s: float, header: Header, message: Message) -> Answers:
            if isinstance(message, CheckIn):
                self.seen.add(header.sender)
            return super().receive(now_s, header, message)

    with FakeServer(Census()) as server:
        clients = [
            start("client.py", server.endpoint, "0", "ephemeral", home=tmp_path) for _ in range(4)
        ]
        said = [client.communicate(timeout=60)[0] for client in clients]
    assert [client.returncode for client in clients] == [0] * 4, said
    assert len(Census.seen) == 4
    assert not (tmp_path / "propius").exists()
