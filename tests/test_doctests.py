"""Every example in a docstring or in the documentation runs and says what it claims.

An example is text with `>>>`. Programs under examples/ have tests of their own.
"""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def with_examples(*patterns: str) -> list[str]:
    """Files, from the root, that match and have an example."""
    return [
        path.relative_to(ROOT).as_posix()
        for pattern in patterns
        for path in sorted(ROOT.glob(pattern))
        if ">>> " in path.read_text()
    ]


@pytest.mark.parametrize(
    "path", with_examples("propius/**/*.py", "daemons/**/*.py", "evaluation/**/*.py")
)
def test_docstring_examples(path: str) -> None:
    """The examples in this module's docstrings hold."""
    name = path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert result.attempted > 0
    assert result.failed == 0


def test_documentation_examples() -> None:
    """The examples in the documentation's pages hold."""
    for path in with_examples("README.md", "docs/**/*.md", "examples/*.md"):
        result = doctest.testfile(str(ROOT / path), module_relative=False, optionflags=FLAGS)
        assert result.failed == 0, path
