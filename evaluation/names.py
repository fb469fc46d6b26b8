"""Names of the original testbed that are others here, and what to say of a name that is none.

Only what is the same thing has two names; a larger model of the original is no name of a smaller
one here. Not here: what the names stand for (:mod:`evaluation.training.models`,
:mod:`evaluation.data.sources`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

__all__ = ["ATTRIBUTES", "DATA_SETS", "MODELS", "no_such"]

DATA_SETS: Final = {"openImg": "openimage", "google_speech": "speech"}
MODELS: Final = {"shufflenetv2_wd2": "shufflenet_v2"}
ATTRIBUTES: Final = {"dataset_size_dummy": "dataset_size"}
"""Of private constraints."""


def no_such(what: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that is not known, with those that are and the nearest of them.

    >>> no_such("model", "resnet34", ["mlp", "resnet18"])
    "no model 'resnet34'; there are mlp, resnet18; did you mean resnet18?"
    """
    names = list(known)
    near = difflib.get_close_matches(name.lower(), names, 1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no {what} {name!r}; there are {', '.join(names)}{hint}"
