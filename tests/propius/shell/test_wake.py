from __future__ import annotations

from propius.shell.wake import Wake


def test_setting_a_closed_wake_does_nothing() -> None:
    """A loop that was asked to stop may have ended before it is woken."""
    wake = Wake()
    wake.close()
    wake.set()
