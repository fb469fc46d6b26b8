"""A device's identity: 128 random bits, made once and kept in a file that only its user reads.

Not here: what the identity is sent with (:mod:`propius.client_session`).
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path
from typing import Final

from propius.errors import InvalidValueError

_is_device_id: Final = re.compile("[0-9a-f]{32}").fullmatch


def device_id(path: str | os.PathLike[str] | None = None) -> str:
    """This device's id: 32 characters 0-9 a-f, from the file, which is made if it is missing.

    The default file is ``propius/device_id`` in ``$XDG_DATA_HOME`` (``~/.local/share``). Two
    programs that call this at once get the same id. Raises InvalidValueError if the file holds
    something else.
    """
    file = Path(path) if path is not None else _default_path()
    try:
        return _read(file)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(secrets.token_hex(16) + "\n")
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
