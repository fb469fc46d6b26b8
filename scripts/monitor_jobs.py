#!/usr/bin/env python3
"""Follow the jobs of runs while they are going: what each has done, every ten seconds.

    scripts/monitor_jobs.py DIR [DIR …]

The original testbed's entry point of this name; `propius eval report` does the work, and its
options are understood here, too.
"""

from __future__ import annotations

import sys

import typer

from evaluation.report.command import report

if __name__ == "__main__":
    sys.argv[1:1] = ["--every", "10", "--show", "jobs"]
    typer.run(report)
