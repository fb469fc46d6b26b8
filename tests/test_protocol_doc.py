"""docs/protocol.md says what propius/messages.py says: every kind, every field, every type."""

from __future__ import annotations

import enum
import json
import re
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec
import pytest
from msgspec import Meta, Struct

from propius import messages
from propius.messages import CLIENT_REQUESTS, EVENTS, INSIDE, JOB_REQUESTS, MESSAGES, REPLIES

PATH = Path(__file__).resolve().parent.parent / "docs" / "protocol.md"
TEXT = PATH.read_text()
PARTS = {
    cls.__name__: cls
    for cls in vars(messages).values()
    if isinstance(cls, type)
    and issubclass(cls, Struct)
    and cls.__module__ == messages.__name__
    and cls is not messages.Message
    and cls not in MESSAGES.values()
}
"""Structures inside messages, and the header."""
WIDTHS = {(1 << 63) - 1: "u63", (1 << 32) - 1: "u32", (1 << 16) - 1: "u16"}


def limits(low: Any, high: Any) -> str:
    """A range as it is written in the document: "", " ≥ 1", " 1…8", " ≤ 8"."""
    if high is None:
        return "" if low is None else f" ≥ {low:g}"
    return f" ≤ {high:,.15g}" if low is None else f" {low:,.15g}…{high:,.15g}"


def written(annotation: Any, meta: Meta | None = None) -> str:
    """A field's type as it is written in the document."""
    meta = meta or Meta()
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return written(args[0], args[1])
    if annotation is int and meta.ge == 0 and meta.le in WIDTHS:
        return WIDTHS[int(meta.le or 0)]
    if annotation in {int, float}:
        return str(annotation.__name__) + limits(meta.ge, meta.le)
    if annotation is str and meta.pattern is not None:
        return "32 hex digits"
    if annotation in {str, bytes}:
        name = "text" if annotation is str else "bytes"
        return name + limits(meta.min_length, meta.max_length)
    if origin is list:
        return f"list{limits(None, meta.max_length)} of {written(args[0])}"
    if origin is dict:
        return f"map{limits(None, meta.max_length)} of {written(args[0])} to {written(args[1])}"
    if origin is tuple:
        return "(" + ", ".join(written(each) for each in args) + ")"
    if annotation is bool:
        return "bool"
    if annotation is type(None):
        return "nil"
    if origin in {Union, UnionType}:
        return " or ".join(written(each) for each in args)
    name = getattr(annotation, "kind", "") or annotation.__name__
    return f"[{name}](#{str(name).lower()})"


def written_default(value: Any) -> str:
    """A field's default as it is written in the document."""
    if isinstance(value, Struct):
        assert not any(msgspec.structs.astuple(value))
        return "all 0"
    return f"{value:g}" if type(value) in {int, float} else json.dumps(value)


def expected_rows(cls: type[Struct]) -> list[tuple[str, str]]:
    """Field and type, in the order of the class, with defaults."""
    hints = get_type_hints(cls, include_extras=True)
    rows = []
    for each in msgspec.structs.fields(cls):
        text = written(hints[each.name])
        if each.default is not msgspec.NODEFAULT:
            text += ", default " + written_default(each.default)
        rows.append((each.name, text))
    return rows


def section(name: str) -> str:
    """The text under the heading of this name, up to the next heading."""
    found = re.search(rf"^###+ `{re.escape(name)}`\n(.*?)(?=^#|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found, f"{PATH.name} has no section {name!r}"
    return found.group(1)


def documented_rows(name: str) -> list[tuple[str, str]]:
    """Field and type as the document's table has them."""
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+?) \| ([^|]+?) \|$", section(name), re.MULTILINE)
    assert all(meaning.strip() for _, _, meaning in rows)
    return [(field, text) for field, text, _ in rows]


def headings() -> list[str]:
    """The names of all documented messages and structures."""
    return re.findall(r"^###+ `(\w+)`$", TEXT, re.MULTILINE)


@pytest.mark.parametrize("kind", MESSAGES)
def test_every_message_is_described_with_its_fields(kind: str) -> None:
    """A section per kind: a sentence, and a table of fields in the order and with the types."""
    cls = MESSAGES[kind]
    assert documented_rows(kind) == expected_rows(cls)
    prose = section(kind).partition("|")[0].strip()
    assert len(prose) > 10


@pytest.mark.parametrize("name", PARTS)
def test_every_structure_is_described_with_its_fields(name: str) -> None:
    """The header and the arrays inside messages have tables, too: their order is the wire's."""
    assert documented_rows(name) == expected_rows(PARTS[name])


def test_nothing_is_described_that_does_not_exist() -> None:
    """Each heading is a kind or a structure, and stands there once."""
    assert sorted(headings()) == sorted([*MESSAGES, *PARTS])


@pytest.mark.parametrize("values", [messages.ErrorCode, messages.Outcome])
def test_every_code_and_outcome_is_explained(values: type[enum.Enum]) -> None:
    """Error codes and outcomes have a row each."""
    for each in values:
        assert re.search(rf"^\| `{each.value}` \| .+ \|$", TEXT, re.MULTILINE), each


def test_the_directions_are_told() -> None:
    """Requests, replies, inside messages and events stand in their own chapters."""
    order = {name: place for place, name in enumerate(headings())}
    chapters = [JOB_REQUESTS[1:], CLIENT_REQUESTS[1:], INSIDE, EVENTS]
    last = [max(order[cls.kind] for cls in chapter) for chapter in chapters]
    first = [min(order[cls.kind] for cls in chapter) for chapter in chapters]
    assert all(end < begin for end, begin in zip(last, first[1:], strict=False))
    assert {cls.kind for cls in REPLIES} <= set(order)


def test_the_version_and_limits_are_the_present_ones() -> None:
    """The document names the protocol version and the size limits that the code has."""
    assert f"version {messages.PROTOCOL_VERSION}" in TEXT
    for limit in (messages.PAYLOAD_BYTES_MAX, messages.HEADER_BYTES_MAX):
        assert f"{limit:,} bytes" in TEXT
