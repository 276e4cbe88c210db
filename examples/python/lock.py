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
    for _ in range(20):
        work()


with everprof.profile("lock") as block:
    threads = [threading.Thread(target=repeat, args=[work], name=work.__name__) for work in (take_stock, sell, sell, sell)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

for name, nanos in block.by_label("thread_name").items():
    print(f"{name:12} waited {nanos // 1_000_000} ms for locks")
