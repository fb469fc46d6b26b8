"""The jobs of an evaluation: what they ask for, when they arrive, how they learn.

* :mod:`evaluation.jobs.yaml_file` reads a typed YAML file, and says what is wrong in one line;
* :mod:`evaluation.jobs.profiles` are the job profiles, with the original testbed's fields;
* :mod:`evaluation.jobs.arrivals` says when which profile arrives, from a trace or at random;
* :mod:`evaluation.jobs.learning` is a job's learning: weights, aggregation, learning rate, without
  a clock or a socket, and therefore the same in virtual and in real time;
* :mod:`evaluation.jobs.job_server` is the process of one job of a live run.

Not here: which devices a job gets (the daemons, or the simulator), and training itself
(:mod:`evaluation.training`, behind :mod:`evaluation.executor`).
"""
