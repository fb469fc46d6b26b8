"""The SDK's two twins behind one face, so that each test of one runs against both.

:class:`Plain` is the blocking SDK as it is; :class:`Awaited` the asyncio one, each verb of which is
run to its end on a loop of its own. What a test writes for one is true of the other.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import propius

TWINS = ("blocking", "asyncio")


class Plain:
    """Jobs, clients and connections that block."""

    Job: Any = propius.Job
    Client: Any = propius.Client
    Connection: Any = propius.Connection


class Awaited:
    """The same names, which stand for jobs, clients and connections of asyncio."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.Job: Any = _Face(loop, propius.AsyncJob)
        self.Client: Any = _Face(loop, propius.AsyncClient)
        self.Connection: Any = _Face(loop, propius.AsyncConnection)


class _Face:
    """An object (or class) whose verbs are awaited before they return."""

    def __init__(self, loop: asyncio.AbstractEventLoop, inner: Any) -> None:
        self._loop, self._inner = loop, inner

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        given = {name: _bare(value) for name, value in named.items()}
        value = self._inner(*map(_bare, arguments), **given)
        if inspect.isawaitable(value):
            value = self._loop.run_until_complete(_await(value))
        return self._shown(value)

    def __getattr__(self, name: str) -> Any:
        return self._shown(getattr(self._inner, name))

    def __enter__(self) -> Any:
        self._loop.run_until_complete(_await(self._inner.__aenter__()))
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.run_until_complete(_await(self._inner.__aexit__(*error)))

    def _shown(self, value: Any) -> Any:
        is_ours = type(value).__module__.startswith("propius.aio")
        return _Face(self._loop, value) if is_ours or inspect.ismethod(value) else value


async def _await(value: Any) -> Any:
    return await value


def _bare(value: Any) -> Any:
    return value._inner if isinstance(value, _Face) else value


@contextmanager
def one_of_twins(name: str) -> Iterator[Any]:
    """One twin; on leaving, no task of the asyncio one may be left."""
    if name == "blocking":
        yield Plain
        return
    loop = asyncio.new_event_loop()
    try:
        yield Awaited(loop)
        assert not asyncio.all_tasks(loop)
    finally:
        loop.close()
