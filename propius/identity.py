"""A device's identity: 128 random bits, made once and kept in a file that only its user reads.

Two clients under one id take each other's work, so a client that goes by the kept id locks the file
(:class:`Hold`). The kernel ends the lock with the process, however that ends.

Not here: what the identity is sent with (:mod:`propius.client_session`).
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from pathlib import Path
from typing import Final

from propius.errors import DeviceIdInUseError, InvalidValueError, UsageError

if sys.platform != "win32":
    import fcntl

_is_device_id: Final = re.compile("[0-9a-f]{32}").fullmatch
_ANOTHER: Final = (
    "give this one its own: device_id=propius.ephemeral_id() (for this run),"
    " or another folder in XDG_DATA_HOME (kept)"
)


def device_id(path: str | os.PathLike[str] | None = None) -> str:
    """This device's id: 32 characters 0-9 a-f, from the file, which is made if it is missing.

    The default file is ``propius/device_id`` in ``$XDG_DATA_HOME`` (``~/.local/share``). Two
    programs that call this at once get the same id. Raises InvalidValueError if the file holds
    something else, and UsageError if it can be neither read nor made.
    """
    file = Path(path) if path is not None else _default_path()
    try:
        return _kept(file)
    except OSError as error:
        raise UsageError(
            f"{file}: no device id can be kept there ({error.strerror}); {_ANOTHER}"
        ) from None


def ephemeral_id() -> str:
    """A new device id that is kept nowhere: for one of several devices on one machine.

    The next run gets another one, and counts as another device.
    """
    return secrets.token_hex(16)


class Hold:
    """The sole right to go by the kept id of a file, until :meth:`release`.

    Raises DeviceIdInUseError if somebody has it: another process, or another client of this one.
    Where files cannot be locked (Windows, some network file systems) nobody is kept out.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        file = Path(path) if path is not None else _default_path()
        self._process: Final = os.getpid()
        self._descriptor: int | None = None
        if sys.platform == "win32":
            return
        descriptor = _open(file)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise DeviceIdInUseError(
                f"{file}: another running client goes by this device id; close it, or {_ANOTHER}"
            ) from None
        except OSError:  # no locks here: the id works as well as it did without them
            os.close(descriptor)
        else:
            self._descriptor = descriptor

    def release(self) -> None:
        """Let another client have it; does nothing the second time."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None or sys.platform == "win32":
            return
        if os.getpid() == self._process:  # a forked child must not end its parent's lock …
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # … nor prolong it by having the file open
        os.close(descriptor)

    def __del__(self) -> None:
        self.release()


def _open(file: Path) -> int:
    try:
        return os.open(file, os.O_RDWR)  # what NFS demands of a file that is to be locked
    except OSError:
        return os.open(file, os.O_RDONLY)  # enough elsewhere, and a home may be read-only


def _kept(file: Path) -> str:
    try:
        return _read(file)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(ephemeral_id() + "\n")
        out.flush()
        os.fsync(out.fileno())
    try:
        os.link(draft, file)  # all or nothing, and the first one wins
    except FileExistsError:
        pass  # another program made it between our read and now: its id is this device's
    finally:
        draft.unlink()
    return _read(file)


def _default_path() -> Path:
    home = os.environ.get("XDG_DATA_HOME", "")
    return (Path(home) if home else Path.home() / ".local/share") / "propius/device_id"


def _read(file: Path) -> str:
    text = file.read_text(encoding="ascii", errors="replace")[:100].strip()
    if not _is_device_id(text):
        raise InvalidValueError(f"{file} does not hold a device id; delete it to get a new one")
    return text
