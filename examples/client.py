"""The shortest device: it serves whatever suits it. Run: client.py [LOAD_BALANCER] [SECONDS]."""

from __future__ import annotations

import sys

from propius import Client

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:50002"
wait_s = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0

with Client(endpoint, spec={"cpu_f": 2.4, "ram": 4.0}, private_spec={"images": 120}) as client:
    while task := client.auto_assign(wait_s):
        with task:  # reports "completed", or "failed" if this block raises
            print(f"job {task.job} round {task.round}: train with {task.endpoint}", flush=True)
