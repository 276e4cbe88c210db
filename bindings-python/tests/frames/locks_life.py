"""Locks and pauses while the profiler comes and goes, others fork, and signals come in the middle of everything: nobody hangs, none of the
locks fails, and the program ends as it would alone. STARTS.
"""

import collections
import ctypes
import gc
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time

import everprof

STARTS = int(sys.argv[1]) if len(sys.argv) > 1 else 3
KINDS = "cpu,wall,lock,mutex,block,gil,gc"

is_over = threading.Event()
done = collections.Counter()
lock, rlock, condition, places = threading.Lock(), threading.RLock(), threading.Condition(), threading.Semaphore(2)
items, simple, inside = queue.Queue(2), queue.SimpleQueue(), [0]
library = ctypes.CDLL(None, use_errno=True)
semaphore = ctypes.create_string_buffer(64)
assert library.sem_init(semaphore, 0, 0) == 0


def forever(work):
    def loop():
        while not is_over.is_set():
            work()
            done[work.__name__] += 1

    return threading.Thread(target=loop, name=work.__name__)


def by_lock():
    with lock:
        inside[0] += 1
        assert inside[0] == 1
        time.sleep(0.0003)
        inside[0] -= 1


def by_rlock():
    with rlock, rlock, places:
        sum(range(500))


def timing_out():
    if lock.acquire(timeout=0.0005):
        lock.release()


def notifying():
    with condition:
        condition.notify_all()
    time.sleep(0.0005)


def waiting():
    with condition:
        condition.wait(0.01)


def putting():
    simple.put(1)
    try:
        items.put(1, timeout=0.01)
    except queue.Full:
        pass


def getting():
    for some in (simple, items):
        try:
            some.get(timeout=0.01)
        except queue.Empty:
            pass


def collecting():
    kept = [[] for _ in range(2000)]
    [one.append(one) for one in kept]
    del kept
    gc.collect(done["collecting"] % 3)


def clearing():
    """Between two calls of the collector's, or not."""
    gc.callbacks.clear()
    everprof.stats()
    time.sleep(0.01)


def forking():
    child = os.fork()
    if child == 0:
        try:
            # A lock of its own: those of others may be held by threads that are not there.
            own = threading.Lock()
            own.acquire()
            thread = threading.Thread(target=own.release)
            thread.start()
            assert own.acquire(timeout=60)
            gc.collect()
        except BaseException as error:
            print(f"in the child: {error!r}", file=sys.stderr, flush=True)
            os._exit(9)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    time.sleep(0.05)


def of_c():
    """A semaphore of the program's, which the handler of a signal posts as well."""
    library.sem_wait(semaphore)


def posting():
    library.sem_post(semaphore)
    time.sleep(0.0002)


handling = 0


def by_signal(number, frame):
    """One within another now and then, but on a crowded machine not without end."""
    global handling
    if handling > 5:
        return
    handling += 1
    try:
        handled()
    finally:
        handling -= 1


def handled():
    done["signals"] += 1
    with rlock:
        simple.put(2)
    library.sem_post(semaphore)


folder = tempfile.mkdtemp(prefix="everprof-")
signal.signal(signal.SIGALRM, by_signal)
signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
works = [by_lock] * 3 + [by_rlock] * 2 + [timing_out, notifying, putting, collecting, clearing, forking, posting] + [waiting, getting] * 2 + [of_c]
threads = [forever(work) for work in works]
[thread.start() for thread in threads]
for _ in range(STARTS):
    everprof.start(dir=folder, kinds=KINDS, period_s=1, lock_threshold_ns=1000)
    time.sleep(0.15)
    everprof.set(kinds="cpu")
    everprof.set(kinds=KINDS)
    time.sleep(0.15)
    for _ in range(20):
        try:
            everprof.stop()
            break
        except everprof.UnavailableError:
            time.sleep(0.5)
is_over.set()
signal.setitimer(signal.ITIMER_REAL, 0)
library.sem_post(semaphore)
for thread in threads:
    thread.join(60)
    assert not thread.is_alive(), f"{thread.name} hangs"
shutil.rmtree(folder, ignore_errors=True)
print(dict(done))
assert all(done[work.__name__] > 0 for work in works) and done["signals"] > 10, done
