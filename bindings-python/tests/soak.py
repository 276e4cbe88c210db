"""The long form of the storm: SECONDS HZ [SAMPLES]. Storms one after the other, each in a process of its own, until so many
samples are taken (ten million) or so many seconds are over, and what came of all of them. Nothing may crash, and no name be wrong."""

import collections
import json
import os
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SECONDS, HZ = float(sys.argv[1]), int(sys.argv[2])
SAMPLES = int(sys.argv[3]) if len(sys.argv) > 3 else 10_000_000
# Samples of a process are kept until its end.
ROUND = 60
KINDS = [["cpu"], ["cpu", "cleared,traced,churn,exceptions,generators,recursion,executing,calling"], ["wall,cpu"]]

total, failed, begin, rounds = collections.Counter(), 0, time.monotonic(), 0
environment = dict(os.environ, TEST_PYTHON=sys.executable, EVERPROF_WALL_RATE_HZ="500", EVERPROF_CPU_BUDGET_PERCENT="100")
while total["samples"] < SAMPLES and (left := SECONDS - (time.monotonic() - begin)) > 2:
    storm = [os.path.join(HERE, "frames", "storm.py"), str(min(ROUND, left)), str(HZ), *KINDS[rounds % len(KINDS)]]
    rounds += 1
    done = subprocess.run([sys.executable, "-X", "faulthandler", *storm], env=environment, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if line.startswith("summary "):
            total.update(json.loads(line[len("summary "):]))
    if done.returncode:
        failed += 1
        print(f"round {rounds}: {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}", flush=True)
version = ".".join(map(str, sys.version_info[:3]))
print(json.dumps({"python": version, "seconds": round(time.monotonic() - begin), "rounds": rounds, "failed": failed, **total}))
sys.exit(1 if failed or not total["samples"] else 0)
