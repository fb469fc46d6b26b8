#!/usr/bin/env python3
"""How well the devices were used in runs, and what was wasted.

    scripts/analyze_util.py DIR [DIR …]

The original testbed's entry point of this name; `propius eval report` does the work, and its
options are understood here, too.
"""

from __future__ import annotations

import sys

import typer

from evaluation.report.command import report

if __name__ == "__main__":
    sys.argv[1:1] = ["--show", "utilisation"]
    typer.run(report)
