"""The shortest useful job: three rounds of ten devices each. Run: job.py [JOB_MANAGER] [DEMAND]."""

from __future__ import annotations

import sys

from propius import Job

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:50001"
demand = int(sys.argv[2]) if len(sys.argv) > 2 else 10

with Job(
    endpoint,
    name="example",
    requirement={"ram": 2.0},
    demand=demand,
    rounds=3,
    server_endpoint="tcp://127.0.0.1:6000",  # where your server hands out the model
) as job:
    for _ in range(3):
        status = job.watch_round(job.start_request())
        while status.ended_after_s < 0:
            status = job.watch_round(status.round, seen=status.version)
        print(f"round {status.round} {status.state}: {status.completed} devices", flush=True)
    job.complete_job()
