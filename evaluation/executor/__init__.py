"""The executor: who trains, for all jobs of a run, on workers that come and go.

* :mod:`evaluation.executor.handle` is what a job uses: in this process, or over a broker;
* :mod:`evaluation.executor.jobs` says what an executor is told of a job;
* :mod:`evaluation.executor.broker` decides which worker trains what, :mod:`.placement` how, of what
  :mod:`.ledger` has been asked;
* :mod:`evaluation.executor.worker` is a worker; what it does with its device is
  :mod:`evaluation.training.trainer`;
* :mod:`evaluation.executor.messages` is what they say to each other, :mod:`.arrays` weights as
  bytes;
* :mod:`evaluation.executor.local` starts a broker and workers on this machine.

Nothing here imports torch: a worker's command and an executor in one process take from
:mod:`evaluation.training` what trains, when they begin.
"""
