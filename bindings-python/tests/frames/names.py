"""Samples have the names that `threading` knows: of threads that are older than the profiler, of short ones, renamed ones, and in a
fork's child.

What burns is named by the name that its thread has to have.
"""

import collections
import concurrent.futures
import os
import shutil
import sys
import tempfile
import threading
import time

import everprof
import pprof


def burn(who, seconds=0.1):
    """In a function of that name."""
    names = {}
    source = f"def burn_{who.encode().hex()}(seconds):\n end = time.thread_time() + seconds\n while time.thread_time() < end: pass"
    exec(source, {"time": time}, names)
    names[f"burn_{who.encode().hex()}"](seconds)


def own(seconds=0.1):
    burn(threading.current_thread().name, seconds)


def work_when_met(who=None):
    """Where threads seldom come, they are looked for once a second."""
    time.sleep(1.5)
    burn(who or threading.current_thread().name)


def older():
    go.wait()
    own()


def renamed():
    work_when_met()
    # Until what was sampled is read.
    time.sleep(1)
    threading.current_thread().name = "renamed by itself"
    own()
    time.sleep(1)
    is_ready.set()
    go_on.wait()
    own()


def check(folder, expected):
    right, wrong = collections.Counter(), collections.Counter()
    for stack, values, labels in pprof.profiles(folder, "cpu"):
        who = next((name[5:] for name in (frame.name.rpartition(".")[2] for frame in stack) if name.startswith("burn_")), None)
        if who is not None:
            who = bytes.fromhex(who).decode()
            (right if labels.get("thread_name") == who else wrong)[who, labels.get("thread_name")] += values[-1] / 1e9
    print(f"{sum(right.values()):.2f} s right of {len(right)} names, wrong: {dict(wrong)}")
    assert not wrong
    missing = expected - {who for who, _ in right}
    assert not missing, missing


go, is_ready, go_on = threading.Event(), threading.Event(), threading.Event()
folder = tempfile.mkdtemp(prefix="everprof-")
before = threading.Thread(target=older, name="older than the profiler")
before.start()
everprof.start(dir=folder, rate_hz=499, period_s=600)

go.set()
own(0.2)
# Names that are longer than the system's, and a short life.
for number in range(10):
    short = threading.Thread(target=own, args=(0.05,), name=f"a short life {number % 2}")
    short.start(), short.join()
with concurrent.futures.ThreadPoolExecutor(3, thread_name_prefix="a pool of threads") as pool:
    for _ in range(12):
        pool.submit(own)
default = threading.Thread(target=work_when_met)
default.start(), default.join()
other = threading.Thread(target=renamed, name="named first")
other.start()
is_ready.wait()
other.name = "renamed by another"
go_on.set()
other.join()
# An odd one: its own name is nothing that text could be.
odd = threading.Thread(target=work_when_met, args=("odd ? name",), name="odd \udcff name")
odd.start(), odd.join()
before.join()
expected = {"MainThread", "older than the profiler", "a short life 0", "a short life 1", "a pool of threads_0", "named first"}
expected |= {"renamed by itself", "renamed by another", default.name, "odd ? name"}

time.sleep(0.6)
from_thread = []


def fork():
    """The child's first thread is this one."""
    if os.fork() == 0:
        own(0.3)
        mine = threading.Thread(target=work_when_met, name="of the child")
        mine.start(), mine.join()
        everprof.flush()
        everprof.stop()
        check(folder + "/child", {"a thread that forks", "of the child"})
        sys.stdout.flush()
        os._exit(0)
    from_thread.append(os.wait()[1])


everprof.stop()
check(folder, expected)
everprof.start(dir=folder + "/child", rate_hz=499, period_s=600)
forks = threading.Thread(target=fork, name="a thread that forks")
forks.start(), forks.join()
assert from_thread == [0], from_thread

# Names that count are no names: of more than a thousand, the numbers are left out.
def nothing():
    pass


for number in range(1100):
    many = threading.Thread(target=nothing, name=f"request {number}")
    many.start(), many.join()
last = threading.Thread(target=work_when_met, args=("request N",), name="request 5000")
last.start(), last.join()
everprof.stop()
check(folder + "/child", {"request N"})
# Threads are what they were, and end without a profiler.
after = threading.Thread(target=nothing, name="after")
after.start(), after.join()
shutil.rmtree(folder)
os._exit(0)
