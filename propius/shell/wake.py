"""How a thread or a signal handler ends the loop's wait."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

CLOSED: Final = -1  # no descriptor: a loop may end while another thread asks it to


class Wake:
    """A flag with a file descriptor: ``set`` from anywhere, the loop polls and clears it."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def fileno(self) -> int:
        """What the loop polls for reading."""
        return self._read

    def set(self) -> None:
        """End the loop's present or next wait; once closed, nobody waits and nothing happens."""
        try:
            os.write(self._write, b"!")
        except BlockingIOError:
            pass  # thousands of unread calls: it is set
        except OSError:
            if self._write != CLOSED:
                raise

    def clear(self) -> None:
        """Forget all calls of ``set`` so far."""
        try:
            os.read(self._read, 65_536)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Give the descriptors back."""
        ends = self._read, self._write
        self._read = self._write = CLOSED
        for end in ends:
            os.close(end)


class Shutdown:
    """The wish to stop: asked once it means drain, asked twice it means at once.

    Tests call :meth:`request`; programs let :meth:`on_signals` do it.
    """

    def __init__(self, wake: Wake) -> None:
        self.level = 0  # 0 run, 1 drain, 2 stop now
        self._wake = wake

    def request(self) -> None:
        """Ask (again) to stop; callable from any thread and from a signal handler."""
        self.level = min(self.level + 1, 2)
        self._wake.set()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """SIGTERM and SIGINT ask to stop while the block runs; only in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with on_signals(self.request, signal.SIGTERM, signal.SIGINT):
            yield


@contextmanager
def on_signals(act: Callable[[], object], *numbers: signal.Signals) -> Iterator[None]:
    """Each of these signals calls ``act`` while the block runs; only in the main thread."""

    def handle(_number: int, _frame: FrameType | None) -> None:
        act()

    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
