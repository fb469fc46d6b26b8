"""The job manager: owner of jobs, rounds, slots and leases, and the arbiter of every claim.

Start reading at ``core.py`` (how a message becomes a decision, and when its answer may leave),
then ``states.py`` (what a job and a round may do), ``rounds.py`` (the rules) and ``claims.py``.
"""
