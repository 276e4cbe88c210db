"""Locks: how long threads wait for them. Nothing is added to the program's own locks: `python lock.py`."""

import threading
import time

import everprof

STOCK = threading.Lock()


def take_stock():
    with STOCK:
        time.sleep(0.01)
    time.sleep(0.001)


def sell():
    with STOCK:
        pass
    time.sleep(0.002)


def repeat(work):
    with everprof.labels(work=work.__name__):
        for _ in range(20):
            work()


# Locks of Python's are semaphores and conditions of C's: `block` is every wait of a thread for another one.
with everprof.profile("block") as block:
    threads = [threading.Thread(target=repeat, args=[work]) for work in (take_stock, sell, sell, sell)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

for work, nanos in block.by_label("work").items():
    print(f"{work or '(others)':10} waited {nanos // 1_000_000:5} ms for other threads")
