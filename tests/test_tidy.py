"""House rules that no linter knows: directions of imports, sizes, purity, exports, docstrings.

Each rule is a function from a source file to the lines that break it; `PLANTED` shows each one a
file that does, so that a rule that has gone blind fails too. What ruff knows is in pyproject.toml.
"""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("propius", "daemons", "evaluation")
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 600
# Longer than the limit, each for a reason that has been weighed.
LONG_FILES = {
    "propius/messages.py": "every message of the protocol is defined in this one file",
}
# The modules of a core and of a session decide; they never look at a clock, a socket or a die.
IMPURE = {
    "asyncio", "datetime", "os", "random", "secrets", "select", "selectors", "signal", "socket",
    "sqlite3", "subprocess", "threading", "time", "uuid", "zmq",
}  # fmt: skip
UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_BUILTINS = {"__import__", "compile", "eval", "exec"}


@dataclass(frozen=True)
class Source:
    """One Python file: its path from the root, and its text."""

    path: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text, self.path)

    @property
    def package(self) -> str:
        """The top folder."""
        return self.path.split("/")[0]

    def imports(self) -> Iterator[tuple[int, str]]:
        """Line and full name of all that is imported, at the top or inside functions."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)

    def calls(self) -> Iterator[ast.Call]:
        """Every call in the file."""
        return (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def functions(self) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
        """Every function and method, nested ones too."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


Complaints = Iterator[tuple[int, str]]
Rule = Callable[[Source], Complaints]


def is_below(name: str, package: str) -> bool:
    """Whether a dotted name is the package or lies in it."""
    return name == package or name.startswith(f"{package}.")


def import_directions(source: Source) -> Complaints:
    """`daemons, evaluation → propius → propius._core`, and never another way."""
    others = {"benches", "datasets", "examples", "scripts", "tests"}
    forbidden = {
        "propius": others | {"daemons", "evaluation"},
        "daemons": others | {"evaluation"},
        "evaluation": others | {"daemons"},
    }.get(source.package, set())
    for line, name in source.imports():
        if name.split(".")[0] in forbidden:
            yield line, f"{source.package} may not import {name}"


def core_only_through_engine(source: Source) -> Complaints:
    """The compiled module is imported by `propius/engine.py` alone."""
    for line, name in source.imports():
        if is_below(name, "propius._core") and source.path != "propius/engine.py":
            yield line, "import propius.engine instead of propius._core"


def torch_only_in_training(source: Source) -> Complaints:
    """Who runs, plans or aggregates needs no torch; what trains is `evaluation/training/`."""
    if source.package in {"tests", "benches"}:
        return
    if source.path.startswith("evaluation/training/") or source.path == "scripts/gpu_bench.py":
        return
    for line, name in source.imports():
        if name.split(".")[0] in {"torch", "torchvision"}:
            yield line, f"imports {name}; only evaluation/training does"


def sizes(source: Source) -> Complaints:
    """A function fits on a screen and a half, a file into one sitting."""
    lines = source.text.count("\n")
    if lines > FILE_LINES_MAX and source.path not in LONG_FILES:
        yield 1, f"{lines} lines, more than {FILE_LINES_MAX}"
    for function in source.functions():
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > FUNCTION_LINES_MAX:
            yield function.lineno, f"{function.name} has {length} lines"


def may_print(path: str) -> bool:
    """Commands print; nothing else in a package does."""
    names = PurePosixPath(path).parts
    return "cli" in names or names[-1] == "cli.py" or "command" in names[-1]


def no_print(source: Source) -> Complaints:
    """A library and a daemon log; only commands print."""
    if source.package not in PACKAGES or may_print(source.path):
        return
    for call in source.calls():
        if isinstance(call.func, ast.Name) and call.func.id == "print":
            yield call.lineno, "print in a package"


def no_unsafe_code(source: Source) -> Complaints:
    """No pickle, eval or shell, so that no socket, file or store can bring code."""
    for line, name in source.imports():
        if name.split(".")[0] in UNSAFE_MODULES:
            yield line, f"imports {name}"
        if name in {"os.system", "os.popen"}:
            yield line, f"imports {name}, a shell"
    for call in source.calls():
        called = ast.unparse(call.func)
        if called in UNSAFE_BUILTINS | {"os.system", "os.popen", "yaml.load"} and not (
            called == "yaml.load" and "Safe" in ast.unparse(call)
        ):
            yield call.lineno, f"calls {called}"
        for keyword in call.keywords:
            if keyword.arg in {"shell", "allow_pickle"} and ast.unparse(keyword.value) != "False":
                yield call.lineno, f"{called} with {keyword.arg}"


def docstrings_of_tests(source: Source) -> Complaints:
    """A test says in one sentence which behaviour it holds."""
    if source.package not in {"tests", "benches"}:
        return
    for function in source.functions():
        if function.name.startswith("test_") and not ast.get_docstring(function):
            yield function.lineno, f"{function.name} has no docstring"


def export_key(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each by name: ruff's order."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def declared_exports(source: Source) -> list[str] | None:
    """What `__all__` lists, or None without one."""
    for node in source.tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
    return None


def exports_are_sorted(source: Source) -> Complaints:
    """`__all__` is in order and names nothing private."""
    exports = declared_exports(source) or []
    if exports != sorted(exports, key=export_key):
        yield 1, "__all__ is not sorted"
    for name in exports:
        if name.startswith("_") and not name.endswith("__"):
            yield 1, f"__all__ names {name}, which is private"


RULES: tuple[Rule, ...] = (
    import_directions,
    core_only_through_engine,
    torch_only_in_training,
    sizes,
    no_print,
    no_unsafe_code,
    docstrings_of_tests,
    exports_are_sorted,
)


def read_sources(*folders: str) -> list[Source]:
    """Every Python file below the folders that exist."""
    return [
        Source(path.relative_to(ROOT).as_posix(), path.read_text())
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


SOURCES = read_sources(*PACKAGES, "tests", "benches", "examples", "scripts")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_file_keeps_the_rule(rule: Rule) -> None:
    """No file in the repository breaks the rule."""
    complaints = [
        f"{source.path}:{line}: {text}" for source in SOURCES for line, text in rule(source)
    ]
    assert not complaints, f"{rule.__doc__}\n" + "\n".join(complaints)


PLANTED: list[tuple[Rule, str, str]] = [
    (import_directions, "propius/a.py", "import daemons.store"),
    (import_directions, "daemons/a.py", "def f():\n    from evaluation import fedavg"),
    (import_directions, "evaluation/a.py", "from daemons.scheduler import core"),
    (core_only_through_engine, "daemons/a.py", "from propius import _core"),
    (core_only_through_engine, "propius/a.py", "from propius._core import Matcher"),
    (torch_only_in_training, "evaluation/executor/a.py", "def f():\n    import torch"),
    (torch_only_in_training, "evaluation/training.py", "from torch.nn import functional"),
    (sizes, "propius/a.py", "def f():\n" + "    pass\n" * FUNCTION_LINES_MAX),
    (sizes, "propius/a.py", "\n" * (FILE_LINES_MAX + 1)),
    (no_print, "daemons/a.py", "print(1)"),
    (no_unsafe_code, "propius/a.py", "from pickle import loads"),
    (no_unsafe_code, "propius/a.py", "eval('1')"),
    (no_unsafe_code, "propius/a.py", "yaml.load(text)"),
    (no_unsafe_code, "propius/a.py", "subprocess.run(command, shell=True)"),
    (docstrings_of_tests, "tests/a.py", "def test_a():\n    pass"),
    (exports_are_sorted, "propius/a.py", "__all__ = ['b', 'a']"),
    (exports_are_sorted, "propius/a.py", "__all__ = ['_a']"),
]


@pytest.mark.parametrize(
    "rule, path, text", PLANTED, ids=lambda value: getattr(value, "__name__", "")
)
def test_each_rule_sees_a_planted_fault(rule: Rule, path: str, text: str) -> None:
    """A file that breaks the rule is complained about."""
    assert list(rule(Source(path, text)))


def pure_sources() -> dict[str, Source]:
    """Cores, sessions and the engine's wrapper, with the modules beside a core that it uses."""
    by_module = {source.path.removesuffix(".py").replace("/", "."): source for source in SOURCES}
    pure = {
        name: source
        for name, source in by_module.items()
        if source.package in PACKAGES
        and (name.endswith((".core", "session")) or name == "propius.engine")
    }
    waiting = list(pure.values())
    while waiting:
        source = waiting.pop()
        neighbours = source.path.rpartition("/")[0].replace("/", ".")
        for _, name in source.imports():
            for module in (name, name.rpartition(".")[0]):
                beside_a_core = neighbours != "propius" and is_below(module, neighbours)
                if beside_a_core and module in by_module and module not in pure:
                    pure[module] = by_module[module]
                    waiting.append(by_module[module])
    return pure


def impurities(source: Source) -> Complaints:
    """No clock, socket, thread or chance in a core, a session, or what a core is made of."""
    for line, name in source.imports():
        if name.split(".")[0] in IMPURE:
            yield line, f"imports {name}"


def test_cores_and_sessions_are_pure() -> None:
    """Cores and sessions decide from their arguments alone; the rule sees a planted clock."""
    assert list(impurities(Source("daemons/a/core.py", "from time import monotonic_ns")))
    complaints = [
        f"{source.path}:{line}: {text}"
        for source in pure_sources().values()
        for line, text in impurities(source)
    ]
    assert not complaints, "\n".join(complaints)


def test_exports_are_true() -> None:
    """All that an `__all__` names can be had from the module."""
    missing = []
    for source in SOURCES:
        exports = declared_exports(source) if source.package in PACKAGES else None
        if exports:
            name = source.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
            module = importlib.import_module(name)
            missing += [f"{name}.{export}" for export in exports if not hasattr(module, export)]
    assert not missing


SHOW_IMPORTED = """
import json, sys
before = set(sys.modules)
import propius
for name in getattr(propius, "__all__", ()):
    getattr(propius, name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def test_import_propius_is_light() -> None:
    """`import propius` loads pyzmq, msgspec and the standard library, and no Rust core."""
    command = [sys.executable, "-c", SHOW_IMPORTED]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, timeout=60)
    modules: list[str] = json.loads(done.stdout)
    # msgspec takes typing_extensions where it happens to be installed.
    of_msgspec = {"msgspec", "typing_extensions"}
    allowed = sys.stdlib_module_names | of_msgspec | {"cython_runtime", "propius", "zmq"}
    foreign = {
        name
        for name in modules
        if name.split(".")[0] not in allowed and not name.startswith("_cython_")
    }
    assert foreign == set()
    assert "propius._core" not in modules
