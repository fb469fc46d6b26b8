"""What every store promises, tried on each; the dictionary is the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemons.store import MemoryStore, SqliteStore, Store
from propius.core import Change, Delete, Put

Open = Callable[[], Store]


@pytest.fixture(params=["memory", "sqlite", "sqlite-power"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which store."""
    return str(request.param)


@pytest.fixture
def store(kind: str, tmp_path: Path) -> Store:
    """An empty store."""
    return make(kind, tmp_path / "propius.db")


def make(kind: str, path: Path) -> Store:
    """A store of this kind."""
    if kind == "memory":
        return MemoryStore()
    return SqliteStore(path, "power" if kind == "sqlite-power" else "process")


def test_empty(store: Store) -> None:
    """A new store has no tables."""
    assert store.load() == {}
    store.close()


def test_put_and_delete(store: Store) -> None:
    """Values are bytes, any; a later put replaces; a deleted key is gone; unknown ones are fine."""
    store.commit([Put("a", "1", b"x"), Put("a", "2", b""), Put("b", "1", bytes(range(256)))])
    assert store.load() == {"a": {"1": b"x", "2": b""}, "b": {"1": bytes(range(256))}}
    store.commit([Put("a", "1", b"y"), Delete("b", "1"), Delete("b", "none"), Delete("c", "1")])
    assert store.load() == {"a": {"1": b"y", "2": b""}}
    store.close()


def test_changes_of_one_batch_are_in_order(store: Store) -> None:
    """The last change of a key counts."""
    store.commit([Put("a", "1", b"x"), Delete("a", "1"), Put("a", "2", b"x"), Put("a", "2", b"y")])
    assert store.load() == {"a": {"2": b"y"}}
    store.commit([])
    assert store.load() == {"a": {"2": b"y"}}
    store.close()


def test_tables_and_keys_come_in_order(store: Store) -> None:
    """Loading gives the same order whatever the order of the commits."""
    store.commit([Put("b", "2", b""), Put("b", "10", b""), Put("a", "z", b""), Put("b", "1", b"")])
    loaded = store.load()
    assert list(loaded) == ["a", "b"]
    assert list(loaded["b"]) == ["1", "10", "2"]
    store.close()


def test_loading_is_a_copy(store: Store) -> None:
    """What is loaded does not change with the store, nor the store with it."""
    store.commit([Put("a", "1", b"x")])
    loaded = store.load()
    loaded["a"]["1"] = b"changed"
    store.commit([Put("a", "2", b"y")])
    assert store.load() == {"a": {"1": b"x", "2": b"y"}}
    assert loaded == {"a": {"1": b"changed"}}
    store.close()


KEYS = st.sampled_from(["1", "2", "3", "ключ", "a/b/c", ""])
TABLES = st.sampled_from(["jobs", "rounds", "leases"])
CHANGES = st.one_of(
    st.builds(Put, TABLES, KEYS, st.binary(max_size=50)), st.builds(Delete, TABLES, KEYS)
)


@settings(
    derandomize=True,
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(batches=st.lists(st.lists(CHANGES, max_size=6), max_size=8))
def test_like_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, kind: str, batches: list[list[Change]]
) -> None:
    """After any batches a store has what the model has, and has it again when it is reopened."""
    path = tmp_path_factory.mktemp("store") / "propius.db"
    model, store = MemoryStore(), make(kind, path)
    for batch in batches:
        model.commit(batch)
        store.commit(batch)
        assert store.load() == model.load()
    store.close()
    if kind != "memory":
        again = make(kind, path)
        assert again.load() == model.load()
        again.close()
