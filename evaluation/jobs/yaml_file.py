"""A YAML file as a typed model: what is wrong with it is one line with file, field and a hint.

Not here: the configuration of the daemons (:mod:`propius.config`), which merges several sources.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from propius.config import StrictBooleans
from propius.errors import PropiusError

__all__ = ["Section", "SettingsError", "read_model"]

ModelT = TypeVar("ModelT", bound="Section")

FILE_BYTES_MAX: Final = 1 << 20


class SettingsError(PropiusError):
    """A file of settings that cannot be used; one line."""


class Section(StrictBooleans):
    """A mapping of a file: typed, immutable, and nothing in it that is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key} stands twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_model(path: Path, model: type[ModelT]) -> ModelT:
    """The file's content; raises :class:`SettingsError`."""
    try:
        with path.open("rb") as file:
            text = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    if len(text) > FILE_BYTES_MAX:
        raise SettingsError(f"{path}: longer than {FILE_BYTES_MAX} bytes")
    try:
        loader = _Loader(text)
        try:
            values = loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {_yaml_line(error)}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: fields and values expected, as in `demand: 10`")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise SettingsError(f"{path}: {_first_line(error, model)}") from error


def _yaml_line(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "not YAML"
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)


def _first_line(error: ValidationError, model: type[BaseModel]) -> str:
    complaints = error.errors()
    first = complaints[0]
    field = ".".join(str(part) for part in first["loc"]) or "the file"
    if first["type"] == "extra_forbidden":
        known = [*_names(model)]
        near = difflib.get_close_matches(str(first["loc"][-1]), known, 1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        return f"{field}: no such field; {hint}"
    if first["type"] == "missing":
        unknown = [str(e["loc"][-1]) for e in complaints if e["type"] == "extra_forbidden"]
        near = difflib.get_close_matches(str(first["loc"][-1]), unknown, 1)
        return f"{field}: missing" + (f"; is it the unknown field {near[0]}?" if near else "")
    what = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    if isinstance(given, str | int | float):
        return f"{field}: {what}, not {given!r}"
    return f"{field}: {what}"


def _names(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield name
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from kind.model_fields
