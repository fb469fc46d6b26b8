"""supervisord under `propius up` notices the death of a program at once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from propius.cli.supervise import WakingPoller

LONG_S = 30.0


@pytest.fixture
def poller() -> Iterator[WakingPoller]:
    """A poller in a process that handles SIGCHLD, as supervisord does."""
    before = signal.signal(signal.SIGCHLD, lambda *_: None)
    made = WakingPoller(SimpleNamespace())
    yield made
    os.close(signal.set_wakeup_fd(-1))
    os.close(made._wake_r)
    signal.signal(signal.SIGCHLD, before)


def test_a_death_ends_the_poll_and_the_one_after_it(poller: WakingPoller) -> None:
    """supervisord reaps after the first, and starts the program again after the second."""
    began_s = time.monotonic()
    with subprocess.Popen(["sleep", "0.2"]) as child:
        assert poller.poll(LONG_S) == ([], [])
        assert child.poll() == 0
        assert poller.poll(LONG_S) == ([], [])
    assert time.monotonic() - began_s < LONG_S
    assert poller.poll(0.01) == ([], [])


def test_what_is_readable_is_told_without_the_pollers_own_pipe(poller: WakingPoller) -> None:
    """supervisord must not see a file descriptor that it does not know."""
    readable, writable = os.pipe()
    poller.register_readable(readable)
    os.write(writable, b"x")
    os.kill(os.getpid(), signal.SIGCHLD)
    assert poller.poll(LONG_S) == ([readable], [])
    os.close(readable)
    os.close(writable)
