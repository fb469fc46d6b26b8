"""Scheduling policies compared on device traces, in virtual time, with the code that runs live.

* :mod:`evaluation.simulator.generate` makes synthetic traces of clients;
* :mod:`evaluation.simulator.workloads` reads job lists, and has the paper's nine workloads;
* :mod:`evaluation.simulator.grid` runs policies and seeds side by side;
* :mod:`evaluation.simulator.results` and :mod:`evaluation.simulator.tables` make figures of the
  runs, with confidence intervals, and show them;
* :mod:`evaluation.simulator.reproduce` compares with the published reference simulator;
* the ``*command`` modules are ``propius simulate``, ``propius trace`` and ``propius reproduce``.

Not here: the simulation itself, which is Rust (``rust_core/src/simulator/``) around the matcher and
the planner of the daemons. Read next: ``docs/simulator.md``.
"""
