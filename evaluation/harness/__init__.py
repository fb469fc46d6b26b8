"""Runs of an evaluation: one configuration, two clocks.

* :mod:`evaluation.harness.config` is the configuration file;
* :mod:`evaluation.harness.experiment` makes of it who arrives when, on which data;
* :mod:`evaluation.harness.models` checks that models and data fit, before any training;
* :mod:`evaluation.harness.virtual` takes rounds from the simulator and trains their participants;
* :mod:`evaluation.harness.live` runs the same over live daemons, in real time;
* :mod:`evaluation.harness.run_command` is ``propius eval run``.

Both clocks write the same run folder (:mod:`evaluation.results`). Read next:
``docs/evaluation.md``.
"""
