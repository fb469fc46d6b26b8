"""A device that serves what suits it. Run: client.py [LOAD_BALANCER] [SECONDS] [ephemeral]."""

import sys

from propius import Client, ephemeral_id

endpoint = sys.argv[1] if len(sys.argv) > 1 else "tcp://127.0.0.1:50002"
wait_s = float(sys.argv[2]) if len(sys.argv) > 2 else 60.0
own_id = ephemeral_id() if "ephemeral" in sys.argv else None  # for many devices on one machine
sys.tracebacklimit = 0  # an error is one line

with Client(endpoint, spec={"ram": 4.0}, private_spec={"images": 120}, device_id=own_id) as client:
    while task := client.auto_assign(wait_s):
        with task:  # reports "completed", or "failed" if this block raises
            print(f"job {task.job} round {task.round}: train with {task.endpoint}", flush=True)
