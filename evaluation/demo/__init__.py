"""``propius demo``: a whole system, three training jobs and some hundred devices, on one machine.

The parts, each a process: the daemons (under supervisord), one job server per job
(:mod:`evaluation.demo.job_server`), and one process for all devices
(:mod:`evaluation.demo.devices`). :mod:`evaluation.demo.command` starts them, watches their
progress lines, and writes the summary.
"""
