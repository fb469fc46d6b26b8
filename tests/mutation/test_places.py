"""Bugs that can be planted are found where they are, and change what they say."""

from __future__ import annotations

from pathlib import Path

from tests.mutation.places import Place, _replaced, python_places

SOURCE = '''\
class Table:
    limit: int | None = 3

    def put(self, key: str, many: int) -> bool:
        """Note it; 1 + 1 stays 2."""
        self.count = self.count + many
        self.keys.append(
            key,
        )
        return self.count < 10
'''


def planted(tmp_path: Path) -> dict[str, str]:
    """What each bug of the source makes of it."""
    (tmp_path / "table.py").write_text(SOURCE)
    found = python_places(tmp_path, ["table.py"])
    changed = {place.what: place.change(SOURCE) for place in found}
    return {what: text for what, text in changed.items() if text is not None}


def test_python_bugs_are_found(tmp_path: Path) -> None:
    """Operators, numbers and statements are changed, each once; annotations never."""
    texts = planted(tmp_path)
    lines = {
        new.strip()
        for text in texts.values()
        for old, new in zip(SOURCE.splitlines(), text.splitlines(), strict=False)
        if old != new
    }
    assert "self.count = self.count - many" in lines
    assert "return self.count <= 10" in lines
    assert "return self.count > 10" in lines
    assert "limit: int | None = 2" in lines
    assert not any("& None" in line for line in lines)
    assert len(set(texts.values())) == len(texts)


def test_statement_is_left_out_whole(tmp_path: Path) -> None:
    """A call over three lines goes, and what follows stays."""
    text = planted(tmp_path)["leave out lines 7-9"]
    assert "append" not in text
    assert text.endswith("        pass\n        return self.count < 10\n")


def test_rust_span_is_replaced_to_the_column() -> None:
    """A span counts lines and columns from one, and its end is not part of it."""
    text = "fn f() -> u32 {\n    a + b\n}\n"
    span = {"start": {"line": 2, "column": 7}, "end": {"line": 2, "column": 8}}
    assert _replaced(span, "-", text) == "fn f() -> u32 {\n    a - b\n}\n"


def test_key_names_file_and_bug() -> None:
    """A bug is the same in a later run if its file and its place in it are."""
    assert Place("a.py", "AddNot 3", str).key == "a.py: AddNot 3"
