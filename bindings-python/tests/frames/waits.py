"""What tasks wait for that do not run: each with the time that it waited, its stack and its kind of wait. `uvloop` as argument: on its loop."""

import asyncio
import collections
import os
import shutil
import socket
import sys
import tempfile
import time

import everprof
import pprof

LOOPS = sys.argv[1] if len(sys.argv) > 1 else "asyncio"
SECONDS = 4
MANY = 300
if LOOPS == "uvloop":
    try:
        import uvloop
    except ImportError:
        print("NOT TESTED: uvloop is not installed")
        sys.exit()


async def inner():
    await asyncio.sleep(SECONDS)


async def sleeper():
    with everprof.labels(tenant="a"):
        await inner()


async def locked(lock):
    async with lock:
        pass


async def taker(queue):
    await queue.get()


async def receiver(reader):
    await reader.read(1)


async def outer():
    await asyncio.create_task(inner(), name="inner")


async def gathers():
    await asyncio.gather(asyncio.sleep(0), asyncio.create_task(inner(), name="inner"))


async def numbers():
    await asyncio.sleep(SECONDS)
    yield 1


async def generator():
    async for _ in numbers():
        pass


async def many():
    await asyncio.sleep(SECONDS)


async def half():
    """Waits for a half of the time, and works for the other."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        pause = time.monotonic() + 0.01
        while time.monotonic() < pause:
            pass
        await asyncio.sleep(0.01)


async def main():
    begin = time.monotonic()
    lock, queue = asyncio.Lock(), asyncio.Queue()
    await lock.acquire()
    ends = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ends[0])
    tasks = [sleeper(), locked(lock), taker(queue), receiver(reader), outer(), gathers(), generator(), half()]
    tasks = [asyncio.create_task(task) for task in tasks]
    await asyncio.sleep(SECONDS)
    lock.release(), queue.put_nowait(1), ends[1].send(b"x")
    await asyncio.gather(*tasks)
    writer.close()
    return time.monotonic() - begin


async def crowd():
    begin = time.monotonic()
    await asyncio.gather(*(asyncio.create_task(many(), name=f"many {n % 3}") for n in range(MANY)))
    return time.monotonic() - begin


def run(coro):
    if LOOPS != "uvloop":
        return asyncio.run(coro)
    loop = uvloop.new_event_loop()
    try:
        return loop.run_until_complete(coro)
    finally:
        loop.close()


folder = tempfile.mkdtemp(prefix="everprof-")
everprof.start(dir=folder, kinds="cpu,wall", period_s=600, async_tasks="waits")
seconds, of_many = run(main()), run(crowd())
# Nobody is kept at work by it.
begin = time.monotonic()
run(asyncio.sleep(0))
assert time.monotonic() - begin < 2
everprof.stop()

told, stacks, tenants = collections.Counter(), collections.defaultdict(collections.Counter), set()
for stack, values, labels in pprof.profiles(folder, "wall"):
    if labels.get("state") != "awaiting":
        continue
    assert stack[-1].name == "[awaiting]", stack
    task = labels["task"]
    told[task, labels["wait"]] += values[-1] / 1e9
    stacks[task][tuple(frame.name for frame in stack[:-1])] += values[-1] / 1e9
    if "tenant" in labels:
        tenants.add((task, labels["tenant"]))
    lines = [frame.line - frame.start for frame in stack if frame.name == "inner"]
    assert all(line == 1 for line in lines), "the line in `inner` that waits"
for key, nanos in told.most_common(20):
    print(key, round(nanos, 2), stacks[key[0]].most_common(1)[0][0])

wanted = {
    ("sleeper", "timer"): ("sleep", "inner", "sleeper"),
    ("taker", "task"): ("get", "taker"),
    ("outer", "task"): ("sleep", "inner", "outer"),
    ("gathers", "task"): ("sleep", "inner", "gathers"),
    ("inner", "timer"): ("sleep", "inner"),
    ("generator", "timer"): ("sleep", "numbers", "generator"),
    ("locked", "lock"): ("acquire", "__aenter__", "locked"),
    ("receiver", "network"): ("_wait_for_data", "read", "receiver"),
}
for (task, wait), names in wanted.items():
    best = stacks[task].most_common(1)[0][0]
    assert tuple(name.rpartition(".")[2] for name in best) == names, (task, best)
    times = 2 if task == "inner" else 1
    # What waits is seen in each look, from its beginning to the last look before its end.
    assert -0.8 * times < told[task, wait] - times * seconds < 0.1 * times * seconds, (task, wait, told[task, wait], seconds)
for number in range(3):
    # Of three hundred, fifty are looked at: of each name about 17, give or take 3, and in thirty looks 3 per cent.
    assert abs(told[f"many {number}", "timer"] - MANY / 3 * of_many) < 0.2 * MANY / 3 * of_many
# While it works nobody can look, and when its work ends it is seen to wait: never for more time than there is.
waited = sum(nanos for (task, _), nanos in told.items() if task == "half")
assert 0.3 * seconds < waited < 1.1 * seconds, waited
assert tenants == ({("sleeper", "a")} if sys.version_info >= (3, 12) else set()), tenants
shutil.rmtree(folder)
os._exit(0)
