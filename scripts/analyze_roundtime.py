#!/usr/bin/env python3
"""Completion, scheduling and response times of runs, by policy and by job, with bounds.

    scripts/analyze_roundtime.py DIR [DIR …]

The original testbed's entry point of this name; `propius eval report` does the work, and its
options are understood here, too.
"""

from __future__ import annotations

import sys

import typer

from evaluation.report.command import report

if __name__ == "__main__":
    sys.argv[1:1] = ["--show", "times", "--show", "jobs"]
    typer.run(report)
