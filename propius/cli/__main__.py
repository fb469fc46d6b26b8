"""``python -m propius.cli`` is the ``propius`` command of this interpreter."""

from __future__ import annotations

from propius.cli import main

main()
