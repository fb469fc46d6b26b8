"""What a program needs that is not installed: one line that names the extra which brings it.

Loads nothing: a program asks before its first heavy import.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from propius.shell.exit_codes import CONFIGURATION

__all__ = ["extra_of", "needs_extras"]

EXTRAS: Final = {
    "training": ("mlxtend", "PIL", "torch"),
    "evaluation": ("matplotlib", "numpy", "scipy", "sklearn"),
    "daemons": (
        "hiredis", "msgpack", "prometheus_client", "pydantic", "redis", "rich", "structlog",
        "supervisor", "typer", "yaml",
    ),
}  # fmt: skip
"""Extra of ``pyproject.toml`` → the modules that it brings. Those that have more stand first: an
evaluation that trains needs all three."""


def extra_of(module: str) -> str:
    """What to install for a module that is missing; "" if no extra of Propius brings it.

    >>> extra_of("torch"), extra_of("yaml.resolver"), extra_of("my_policy")
    ('daemons,evaluation,training', 'daemons', '')
    """
    top = module.partition(".")[0]
    if top in EXTRAS["daemons"]:
        return "daemons"
    if top in EXTRAS["evaluation"]:
        return "daemons,evaluation"
    return "daemons,evaluation,training" if top in EXTRAS["training"] else ""


@contextmanager
def needs_extras(what: str) -> Iterator[None]:
    """In this block, a module that an extra brings and that is missing ends the program.

    The one line is "``what``: it needs MODULE: pip install 'propius[...]'", the exit code that of a
    configuration that cannot be used.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        extra = extra_of(missing.name or "")
        if not extra:
            raise
        text = f"{what}: it needs {missing.name}: pip install 'propius[{extra}]'"
        sys.stderr.write(f"{text}\n")
        sys.exit(CONFIGURATION)
