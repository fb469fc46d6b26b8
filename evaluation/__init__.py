"""Real workloads on Propius: simulated devices, real training data, and what is drawn from a run.

Imports `propius` and never `daemons`. Nothing here is needed to use Propius; start with
:mod:`evaluation.population` for the devices and :mod:`evaluation.fedavg` for the training.
"""
