"""What a run found, for people: ``propius eval report``.

* :mod:`evaluation.report.summary` makes the figures of jobs and policies;
* :mod:`evaluation.report.curves` the curves of accuracy and loss over time;
* :mod:`evaluation.report.original_csv` the CSV files that the original testbed's scripts read;
* :mod:`evaluation.report.charts` and :mod:`evaluation.report.page` the figures and the page;
* :mod:`evaluation.report.command` the command.

Everything is made from run folders (:mod:`evaluation.results`), whether their runs are over or not.
``docs/reports.md`` says what each figure means.
"""
