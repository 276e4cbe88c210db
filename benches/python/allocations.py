"""What allocations cost under one profiler, in a process of its own: PROFILER OUT. Prints one line of JSON: nanoseconds of CPU time for
each pass of small loops, the least of some.

Under a stack 22 deep, as the allocations of a program have. Without arguments of its own: BENCH_PASSES (7).
"""

import json
import os
import sys
import time

PROFILER, OUT = sys.argv[1:3]
PASSES = int(os.environ.get("BENCH_PASSES", "7"))
DOCUMENT = json.dumps([{"id": number, "name": f"row {number}", "values": list(range(10))} for number in range(20)])


def integers():
    total = 0
    for number in range(10_000):
        total += number * 1_000_003
    return total


def dictionaries():
    return [{"id": number, "name": str(number)} for number in range(2_000)]


def documents():
    return [json.loads(DOCUMENT) for _ in range(10)]


def strings():
    return ["row " + str(number) + "!" * 20 for number in range(3_000)]


def start():
    if PROFILER == "everprof":
        import everprof
        everprof.start(dir=OUT, kinds="alloc,heap", service="bench")
    elif PROFILER.startswith("memray"):
        import memray
        memray.Tracker(os.path.join(OUT, "memray.bin"), trace_python_allocators=PROFILER == "memray-python").__enter__()
    elif PROFILER == "tracemalloc":
        import tracemalloc
        tracemalloc.start()
    elif PROFILER == "ddtrace":
        os.environ.update(DD_INSTRUMENTATION_TELEMETRY_ENABLED="false", DD_TRACE_ENABLED="false", DD_PROFILING_STACK_ENABLED="false",
                          DD_PROFILING_LOCK_ENABLED="false", DD_TRACE_AGENT_URL="http://127.0.0.1:1")
        from ddtrace.profiling import Profiler
        Profiler().start()


def deep(depth, work):
    return deep(depth - 1, work) if depth else work()


def least(loop):
    def once():
        begin = time.thread_time_ns()
        loop()
        return time.thread_time_ns() - begin

    # Each is some hundred microseconds to milliseconds: long enough for the clock, short enough to be left alone for once.
    return min(once() for _ in range(PASSES * 20))


start()
# Everprof's thread sets its hooks when it has come to it.
time.sleep(0.3)
found = {loop.__name__: deep(20, lambda: least(loop)) for loop in (integers, dictionaries, documents, strings)}
print(json.dumps(found), flush=True)
# No profiler's end is of interest.
os._exit(0)
