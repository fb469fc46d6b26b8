from __future__ import annotations

import inspect

import propius
from propius import errors


def test_everything_public_is_listed_and_everything_listed_exists() -> None:
    """`__all__`, `dir()` and what can be had from the package are the same names."""
    assert len(set(propius.__all__)) == len(propius.__all__)
    for name in propius.__all__:
        assert getattr(propius, name) is not None
    assert set(propius.__all__) <= set(dir(propius))


def test_every_error_can_be_caught_from_the_top() -> None:
    """No error of the tree has to be imported from inside."""
    assert set(errors.__all__) <= set(propius.__all__)
    assert issubclass(propius.RequestTimeoutError, TimeoutError)
    assert issubclass(propius.InvalidValueError, ValueError)


def test_every_public_thing_says_what_it_is() -> None:
    """Classes, functions and their public methods have docstrings."""
    for name in propius.__all__:
        thing = getattr(propius, name)
        if not inspect.isclass(thing) and not inspect.isfunction(thing):
            continue
        assert thing.__doc__, name
        for method_name, method in vars(thing).items():
            if inspect.isfunction(method) and not method_name.startswith("_"):
                assert method.__doc__, f"{name}.{method_name}"


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    """The lazy package fails like any other."""
    assert not hasattr(propius, "Jop")


def test_the_version_is_known() -> None:
    """The installed distribution's version, or a placeholder in a bare checkout."""
    assert propius.__version__[0].isdigit()
