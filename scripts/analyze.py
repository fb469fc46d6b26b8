#!/usr/bin/env python3
"""Accuracy and loss over time, and all else that runs found, as a page with figures.

    scripts/analyze.py DIR [DIR …]

The original testbed's entry point of this name; `propius eval report` does the work, and its
options are understood here, too.
"""

from __future__ import annotations

import typer

from evaluation.report.command import report

if __name__ == "__main__":
    typer.run(report)
