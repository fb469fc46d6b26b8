"""The report as one HTML page that needs nothing else: no script, no font, no other file.

Not here: what the tables and figures say (:mod:`evaluation.report.tables`, ``charts``).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from evaluation.report.charts import Chart, looks
from evaluation.report.document import Report, RunInfo
from evaluation.report.tables import TABLES, Table, headline, notices

__all__ = ["page"]

STYLE: Final = """
:root { color-scheme: light; --ink: #222; --faint: #666; --line: #ddd; --band: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 2rem 1.5rem 4rem; color: var(--ink);
  background: #fff; font: 15px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.6rem 0 .4rem; }
p { margin: .3rem 0 .8rem; max-width: 52rem; }
.lead { font-size: 1.15rem; margin-top: 1rem; }
.note, figcaption { color: var(--faint); font-size: .87rem; }
.notice { background: #fff6e0; border-left: 4px solid #e69f00; padding: .5rem .9rem;
  margin: .6rem 0; max-width: none; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums;
  width: 100%; }
th, td { padding: .38rem .7rem; text-align: right; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 600; vertical-align: bottom; white-space: normal; }
th.name, td.name { text-align: left; }
td small { display: block; color: var(--faint); }
tbody tr:nth-child(even) { background: var(--band); }
.swatch { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px;
  margin-right: .45rem; vertical-align: -.05rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr));
  gap: 1.6rem 2rem; }
figure { margin: 0; } figure.full { grid-column: 1 / -1; }
figure img { width: 100%; height: auto; display: block; }
details { margin: .6rem 0; } summary { cursor: pointer; }
pre { background: var(--band); padding: .8rem 1rem; overflow-x: auto; font-size: .8rem; }
@media print { body { max-width: none; padding: 0; } h2, figure { break-inside: avoid; } }
"""
FULL: Final = frozenset({"accuracy_by_job", "completion", "times"})
"""Figures as wide as the page."""


def page(report: Report, charts: Sequence[Chart]) -> str:
    """The whole page."""
    colours = {
        label: look.colour
        for label, look in looks([policy.label for policy in report.policies]).items()
    }
    tables = {name: make(report) for name, make in TABLES.items()}
    policies = ", ".join(dict.fromkeys(policy.policy for policy in report.policies))
    parts = [
        f"<h1>Evaluation: {escape(policies)}</h1>",
        f'<p class="note">{escape(_asked(report))}</p>',
        f'<p class="lead">{escape(headline(report))}</p>' if report.speed_ups else "",
        *(f'<p class="notice">{escape(notice)}</p>' for notice in notices(report)),
        *(_table(tables[name], colours) for name in ("times", "accuracy", "utilisation")),
        '<h2>Figures</h2><div class="charts">',
        *map(_figure, charts),
        "</div>",
        _table(tables["jobs"], colours),
        _table(tables["events"], colours),
        "<h2>What was run</h2>",
        *map(_run, report.runs),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Propius: {escape(policies)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )


def _asked(report: Report) -> str:
    jobs = max((policy.jobs // max(policy.seeds, 1) for policy in report.policies), default=0)
    seeds = sorted({seed for run in report.runs for seed in run.seeds})
    clocks = " and ".join(sorted({run.clock for run in report.runs}))
    clients = {run.config.get("client_num") for run in report.runs} - {None}
    words = [f"{jobs} jobs"]
    if len(clients) == 1:
        words.append(f"{clients.pop():,} clients")
    words.append(f"seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}")
    return f"{', '.join(words)}; {clocks} clock. Times are those of the devices, not of the run."


def _table(table: Table, colours: dict[str, str]) -> str:
    if not table.rows:
        return ""
    classes = ['class="name"' if place < table.names else "" for place in range(len(table.columns))]
    head = "".join(
        f"<th {kind}>{escape(column)}</th>"
        for kind, column in zip(classes, table.columns, strict=True)
    )
    body = []
    for row in table.rows:
        cells = "".join(
            f"<td {kind}>{_cell(text, colours if place == 0 else {})}</td>"
            for place, (kind, text) in enumerate(zip(classes, row, strict=True))
        )
        body.append(f"<tr>{cells}</tr>")
    return (
        f'<h2>{escape(table.title)}</h2>\n<p class="note">{escape(table.note)}</p>\n'
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(body)
        + "\n</tbody></table></div>"
    )


def _cell(text: str, colours: dict[str, str]) -> str:
    """A cell; bounds stand below the mean, and a policy has its colour beside it."""
    if text in colours:
        return f'<span class="swatch" style="background:{colours[text]}"></span>{escape(text)}'
    mean, bracket, rest = text.partition(" (")
    if bracket and " – " in rest:
        return f"{escape(mean)}<small>{escape(rest.removesuffix(')'))}</small>"
    return escape(text)


def _figure(chart: Chart) -> str:
    data = base64.b64encode(chart.svg.encode()).decode()
    kind = ' class="full"' if chart.name in FULL else ""
    return (
        f'<figure{kind}><img alt="{escape(chart.title)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(chart.caption)}</figcaption></figure>"
    )


def _run(run: RunInfo) -> str:
    config = json.dumps(run.config | {"profiles": run.origin["profiles"]}, indent=1, default=str)
    rows = "".join(
        f'<tr><th class="name">{escape(name)}</th><td class="name">{escape(text)}</td></tr>'
        for name, text in origin_lines(run.origin)
    )
    return (
        f"<details><summary>{escape(run.name)}: {escape(run.state)}, {escape(run.clock)} clock"
        f"</summary>\n<table>{rows}</table>\n<pre>{escape(config)}</pre></details>"
    )


def origin_lines(origin: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where a run comes from, in words; what an older run does not say is left out."""
    hardware = origin["hardware"] or {}
    machine = [str(hardware[key]) for key in ("system", "processor") if hardware.get(key)]
    if hardware:
        machine.append(f"{hardware['cores']} cores, {hardware['memory_gib']} GiB")
        machine += hardware["gpus"]
    data = [
        f"{name}: {each['training_samples']:,} training and {each['test_samples']:,} test samples "
        f"of {each['classes']} classes, SHA-256 {each['sha256'][:16]}…"
        for name, each in (origin["data"] or {}).items()
    ]
    versions = ", ".join(f"{name} {number}" for name, number in (origin["versions"] or {}).items())
    lines = [
        ("command", origin["command"] or ""),
        ("commit", origin["commit"] or ""),
        ("versions", versions),
        ("hardware", "; ".join(machine)),
        ("data", "; ".join(data)),
    ]
    return [(name, text) for name, text in lines if text]
