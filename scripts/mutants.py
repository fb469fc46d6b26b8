"""Plant small bugs, one at a time, and count those that the tests notice.

Needs cargo-mutants (`cargo install cargo-mutants --locked`). Bugs are drawn from the seed, in a
clone of what is committed, so that the work tree is never touched; a run that was interrupted goes
on where it was.

  scripts/mutants.py run --out mutants.jsonl                 150 of each module, for hours
  scripts/mutants.py run --out mutants.jsonl --module matcher --sample 20
  scripts/mutants.py run --out mutants.jsonl --again         only those that survived, once more
  scripts/mutants.py score mutants.jsonl                     the table in docs/testing.md
  scripts/mutants.py score mutants.jsonl --survivors         and what nobody noticed

Exit code: 0, 2 on a wrong command, 130 if interrupted.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests/ is not installed

from tests.mutation.score import equivalents, scores
from tests.mutation.trial import Trial, copy_of, modules, sample

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = 130


def main() -> int:
    """Run the command."""
    arguments = parser().parse_args()
    try:
        return int(arguments.do(arguments))
    except KeyboardInterrupt:
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """What can be asked for."""
    shape = argparse.RawDescriptionHelpFormatter
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    commands = whole.add_subparsers(required=True)
    run = commands.add_parser("run", help="plant bugs")
    run.set_defaults(do=run_trials)
    run.add_argument("--out", type=Path, required=True, help="a line is added for each bug")
    run.add_argument("--module", action="append", choices=sorted(modules()), help="default: all")
    run.add_argument("--sample", type=int, default=150, help="bugs of each module")
    run.add_argument("--seed", type=int, default=1)
    run.add_argument("--timeout", type=float, default=300.0, help="seconds for each command")
    run.add_argument("--again", action="store_true", help="only what survived, at this commit")
    run.add_argument("--work", type=Path, default=ROOT / "out" / "mutants", help="for the clone")
    score = commands.add_parser("score", help="count")
    score.set_defaults(do=show_scores)
    score.add_argument("lines", type=Path)
    score.add_argument("--survivors", action="store_true")
    score.add_argument("--json", action="store_true")
    return whole


def run_trials(arguments: argparse.Namespace) -> int:
    """Plant what has not been tried yet."""
    arguments.work.parent.mkdir(parents=True, exist_ok=True)
    copy = copy_of(ROOT, arguments.work, arguments.timeout)
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as progress:
        for name in arguments.module or modules():
            module = modules()[name]
            done = {each.key: each.verdict for each in read(arguments.out) if each.module == name}
            bar = progress.add_task(name, total=arguments.sample)
            copy.baseline(module)
            for place in sample(copy.root, module, arguments.sample, arguments.seed):
                verdict = done.get(place.key)
                if verdict is None or (arguments.again and verdict == "survived"):
                    line = msgspec.json.encode(copy.try_out(name, module, place))
                    with arguments.out.open("ab") as lines:
                        lines.write(line + b"\n")
                progress.advance(bar)
    return 0


def read(path: Path) -> list[Trial]:
    """The lines of a run; the last may have been cut by an interruption."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(msgspec.json.decode(line, type=Trial))
        except msgspec.DecodeError as error:
            if number < len(lines):
                raise SystemExit(f"{path}:{number}: not a line of --out: {error}") from error
            path.write_bytes(b"".join(each + b"\n" for each in lines[:-1]))
    return found


def show_scores(arguments: argparse.Namespace) -> int:
    """The table, and what nobody noticed."""
    found = scores(read(arguments.lines), equivalents())
    if arguments.json:
        rows = {
            name: {
                "counts": score.counts, "equivalent": score.equivalent, "tried": score.tried,
                "noticed": score.noticed, "interval": score.interval(),
                "survivors": [each.key for each in score.survivors],
            }
            for name, score in found.items()
        }  # fmt: skip
        print(json.dumps(rows, indent=1))
        return 0
    table = Table(title="planted bugs that the tests noticed", title_justify="left", box=None)
    table.add_column("module", no_wrap=True, min_width=max(map(len, found), default=6))
    for column in ("tried", "noticed", "hung", "survived", "equivalent", "score", "95 %"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, score in found.items():
        low, high = score.interval()
        share = f"{score.noticed / score.tried:.1%}" if score.tried else "-"
        cells = (score.tried, score.noticed, score.counts.get("hung", 0), len(score.survivors))
        interval = f"{low:.1%} to {high:.1%}"
        table.add_row(name, *map(str, (*cells, score.equivalent)), share, interval)
    console = Console()
    console.print(table)
    for score in found.values() if arguments.survivors else ():
        for each in score.survivors:
            console.print(each.key, highlight=False, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
