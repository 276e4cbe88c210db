"""A program under one profiler, in a process of its own: PROFILER SINK OUT. Prints one line of JSON about it.

The same work for all: a recursion 30 deep, json and regular expressions, in 8 threads, and 50 tasks of asyncio in the main one;
over and over for BENCH_SECONDS, where they are given.
"""

import asyncio
import json
import os
import re
import sys
import threading
import time

PROFILER, SINK, OUT = sys.argv[1:4]
AMOUNT = int(os.environ.get("BENCH_AMOUNT", "200"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "0"))
DOCUMENT = json.dumps([{"id": number, "name": f"row {number}", "values": list(range(10))} for number in range(60)])
ROW = re.compile(r"row (\d+)")


def recursion(depth):
    return recursion(depth - 1) if depth else sum(i * i for i in range(300))


def documents():
    rows = json.loads(DOCUMENT)
    return sum(int(ROW.match(row["name"])[1]) for row in rows) + len(json.dumps(rows))


def thread():
    for _ in range(AMOUNT):
        for _ in range(20):
            recursion(30)
        for _ in range(20):
            documents()


async def task():
    for _ in range(AMOUNT):
        await asyncio.sleep(0)
        recursion(30)


async def tasks():
    await asyncio.gather(*(task() for _ in range(50)))


def work():
    threads = [threading.Thread(target=thread) for _ in range(8)]
    for one in threads:
        one.start()
    asyncio.run(tasks())
    for one in threads:
        one.join()


def start():
    """What starts the profiler; returns what ends it."""
    if PROFILER.startswith("everprof"):
        import everprof
        more = {"kinds": "cpu,alloc,heap"} if PROFILER == "everprof-alloc" else {}
        everprof.start(push=f"pyroscope+http://{SINK}", dir=OUT, service="bench", period_s=60, **more)
        return everprof.stop
    if PROFILER.startswith("pyroscope"):
        import pyroscope
        more = {}
        if PROFILER == "pyroscope-stack":
            more["cpu_implementation"] = pyroscope.ProfilerImplementation.Stack
        pyroscope.configure(application_name="bench", server_address=f"http://{SINK}", sample_rate=100, **more)
        return pyroscope.shutdown
    if PROFILER == "ddtrace":
        host, port = SINK.split(":")
        os.environ.update(DD_TRACE_AGENT_URL=f"http://{host}:{port}", DD_INSTRUMENTATION_TELEMETRY_ENABLED="false",
                          DD_TRACE_ENABLED="false")
        from ddtrace.profiling import Profiler
        profiler = Profiler()
        profiler.start()
        return profiler.stop
    if PROFILER == "memray":
        import memray
        tracker = memray.Tracker(os.path.join(OUT, "memray.bin"))
        tracker.__enter__()
        return lambda: tracker.__exit__(None, None, None)
    if PROFILER == "tracemalloc":
        import tracemalloc
        tracemalloc.start()
        return tracemalloc.stop
    return lambda: None


def resident():
    """In KiB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


def cpu_of_others():
    """CPU time, in seconds, of the threads that Python does not know."""
    # A thread that was joined may be about to end.
    time.sleep(0.2)
    known, total = {one.native_id for one in threading.enumerate()}, 0
    for tid in os.listdir("/proc/self/task"):
        if int(tid) not in known:
            with open(f"/proc/self/task/{tid}/schedstat") as file:
                total += int(file.read().split()[0])
    return total / 1e9


def memory_of_threads(count=50):
    """KiB for each of many threads that have worked and wait."""
    before, end = resident(), threading.Event()
    threads = [threading.Thread(target=lambda: (recursion(30), end.wait())) for _ in range(count)]
    for one in threads:
        one.start()
    time.sleep(1)
    added = (resident() - before) / count
    end.set()
    for one in threads:
        one.join()
    return added


recursion(30), documents()
rss, cpu = resident(), time.process_time()
stop = start()
start_cpu = time.process_time() - cpu
time.sleep(0.5)
found = {"start_ms": start_cpu * 1e3, "rss_start_kib": resident() - rss}
found["rss_thread_kib"] = memory_of_threads()
# From outside it is attached here, and has a moment for it.
print("ready", flush=True)
sys.stdin.readline()
others = cpu_of_others()
cpu, begin = time.process_time(), time.monotonic()
work()
while time.monotonic() - begin < SECONDS:
    work()
found["app_cpu_s"] = time.process_time() - cpu
found["seconds"] = time.monotonic() - begin
found["own_cpu_s"] = cpu_of_others() - others
found["true_cpu_s"] = time.process_time()
cpu = time.process_time()
stop()
found["stop_ms"] = (time.process_time() - cpu) * 1e3
print(json.dumps(found), flush=True)
