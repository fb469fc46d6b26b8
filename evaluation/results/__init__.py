"""The run folder: what an evaluation found, as it finds it, and how that is read again.

* :mod:`evaluation.results.rows` has the rows of its tables, and how they stand in a file;
* :mod:`evaluation.results.writer` writes the folder, a line at a time;
* :mod:`evaluation.results.reader` reads it, also while the run is still going.

::

    DIR/run.json                     what was asked, and how far the run is
    DIR/<policy>-<seed>/rounds.csv   one row for each attempt at a round, failed ones too
    DIR/<policy>-<seed>/scores.csv   one row for each test of a job's weights
    DIR/<policy>-<seed>/jobs.csv     one row for each job that is over
    DIR/<policy>-<seed>/clients.csv  one row for each client
    DIR/<policy>-<seed>/events.jsonl what befell the run

All times are simulated seconds from the start of the run. Not here: figures and tables
(:mod:`evaluation.report`).
"""
