"""How a handler says no: an exception that carries the error message for the caller."""

from __future__ import annotations

from propius.messages import Error, ErrorCode


class Refusal(Exception):
    """Raised before anything was changed; ``error`` is what the caller is told."""

    def __init__(self, code: ErrorCode, text: str, field: str = "") -> None:
        super().__init__(text)
        self.error = Error(code=code, text=text[:1_000], field=field)
