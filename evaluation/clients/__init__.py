"""The devices of an evaluation: who they are, when they are there, how long a task takes them.

* :mod:`evaluation.clients.behaviour` draws or reads the devices, the same in both clocks;
* :mod:`evaluation.clients.dispatcher` is a process that lives the lives of thousands of them, over
  the public SDK, in a live run.

Not here: training, which the executor does for them.
"""
