"""The child of a fork has a profile of its own, with the names of functions that the parent had met and of those that it meets."""

import os
import sys
import time

import profiler


def spin(seconds=0.5):
    begin = time.thread_time()
    while time.thread_time() - begin < seconds:
        pass


def of_parent():
    spin()


def of_child():
    spin()
    of_parent()


with profiler.Run(997) as profile:
    of_parent()
    child = os.fork()
    if child == 0:
        of_child()
        profiler.everprof.stop()
        # A stop waits for two seconds, and a build for debugging needs more.
        time.sleep(5)
        os._exit(0)
    of_parent()
    status = os.waitpid(child, 0)[1]

seconds = {}
for stack, values, _ in profile.samples:
    names = [frame.name for frame in stack if profiler.is_python(frame)]
    if names[:1] == ["spin"]:
        assert names[-1] == "<module>", names
        way = " ".join(names[1:-1])
        seconds[way] = seconds.get(way, 0) + values[-1] / 1e9
print(status, seconds)
assert status == 0
assert abs(seconds["of_parent"] - 1) < 0.2 and abs(seconds["of_child"] - 0.5) < 0.15, seconds
assert abs(seconds["of_parent of_child"] - 0.5) < 0.15
