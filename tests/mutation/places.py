"""Where a source file can be changed by one small bug, and the bug itself.

Rust: as ``cargo mutants --list`` has them. Python: the operators of Cosmic Ray that make plausible
bugs, and one of ours, a statement that is left out. A change of an annotation is no bug.

Cosmic Ray is imported where it is needed: it loads much.
Not here: which are tried, and by which tests (``trial.py``).
"""

from __future__ import annotations

import ast
import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

OPERATORS: Final = (
    "ReplaceBinaryOperator_Add_Sub", "ReplaceBinaryOperator_Sub_Add",
    "ReplaceBinaryOperator_Mul_Div", "ReplaceBinaryOperator_Div_Mul",
    "ReplaceBinaryOperator_FloorDiv_Mul", "ReplaceBinaryOperator_Mod_Add",
    "ReplaceBinaryOperator_BitOr_BitAnd", "ReplaceBinaryOperator_BitAnd_BitOr",
    "ReplaceComparisonOperator_Eq_NotEq", "ReplaceComparisonOperator_NotEq_Eq",
    "ReplaceComparisonOperator_Lt_LtE", "ReplaceComparisonOperator_LtE_Lt",
    "ReplaceComparisonOperator_Gt_GtE", "ReplaceComparisonOperator_GtE_Gt",
    "ReplaceComparisonOperator_Lt_Gt", "ReplaceComparisonOperator_Gt_Lt",
    "ReplaceComparisonOperator_LtE_GtE", "ReplaceComparisonOperator_GtE_LtE",
    "ReplaceComparisonOperator_Is_IsNot", "ReplaceComparisonOperator_IsNot_Is",
    "ReplaceUnaryOperator_Delete_Not", "ReplaceUnaryOperator_USub_UAdd",
    "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr",
    "ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak",
    "NumberReplacer", "RemoveDecorator", "ZeroIterationForLoop",
)  # fmt: skip


@dataclass(frozen=True)
class Place:
    """One bug that can be planted: in which file (from the repository's root), and which."""

    path: str
    what: str
    change: Callable[[str], str | None]
    """Of the file's text; None if it changes nothing that runs."""

    @property
    def key(self) -> str:
        """Names it, as long as its file does not change."""
        return f"{self.path}: {self.what}"


def rust_places(root: Path, globs: Iterable[str]) -> Iterator[Place]:
    """All in these files, in the order of the tool's list."""
    files = [part for glob in globs for part in ("--file", glob)]
    command = ["cargo", "mutants", "--list", "--json", *files]
    listed = subprocess.run(command, cwd=root, capture_output=True, check=True)
    for found in json.loads(listed.stdout):
        at, what = found["name"].removeprefix(found["file"] + ":").split(": ", 1)
        change = partial(_replaced, found["span"], found["replacement"])
        yield Place(found["file"], f"{at}: {what}", change)


def _replaced(span: dict[str, dict[str, int]], by: str, text: str) -> str:
    lines = text.splitlines(keepends=True)
    start, end = (
        sum(map(len, lines[: at["line"] - 1])) + at["column"] - 1
        for at in (span["start"], span["end"])
    )
    return text[:start] + by + text[end:]


def python_places(root: Path, paths: Sequence[str]) -> Iterator[Place]:
    """All in these files: by operator, then statements that can be left out."""
    for path in paths:
        text = (root / path).read_text()
        for operator, times in _occurrences(text).items():
            for number in range(times):
                yield Place(path, f"{operator} {number}", partial(_mutated, operator, number))
        for node in ast.walk(ast.parse(text)):
            if _is_effect(node):
                assert isinstance(node, ast.stmt)
                lines = (node.lineno, node.end_lineno or node.lineno)
                yield Place(path, "leave out lines {}-{}".format(*lines), partial(_without, *lines))


def _occurrences(text: str) -> dict[str, int]:
    """How often each operator applies."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    nodes = list(ast_nodes(get_ast(text)))
    counts = {}
    for name in OPERATORS:
        operator = get_operator(f"core/{name}")()
        counts[name] = sum(1 for node in nodes for _ in operator.mutation_positions(node))
    return counts


def _mutated(operator: str, number: int, text: str) -> str | None:
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    changed: str | None = mutate_code(text, get_operator(f"core/{operator}")(), number)
    return changed if changed and _meaning(changed) not in {"", _meaning(text)} else None


def _without(first: int, last: int, text: str) -> str | None:
    lines = text.splitlines(keepends=True)
    at = lines[first - 1]
    indent = at[: len(at) - len(at.lstrip())]
    changed = "".join([*lines[: first - 1], f"{indent}pass\n", *lines[last:]])
    return changed if _meaning(changed) else None


def _is_effect(node: ast.AST) -> bool:
    """A statement that only has an effect: a call, an assignment to a field, a deletion."""
    match node:
        case ast.Expr(value=ast.Call() | ast.Await()) | ast.Delete() | ast.Raise():
            return True
        case ast.Assign(targets=[target]) | ast.AugAssign(target=target):
            return not isinstance(target, ast.Name)
    return False


def _meaning(text: str) -> str:
    """The code without its annotations; "" for a text that does not compile."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return ""
    return ast.dump(_Bare().visit(tree))


class _Bare(ast.NodeTransformer):
    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> Any:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> Any:
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> Any:
        node.returns = None
        return self.generic_visit(node)
