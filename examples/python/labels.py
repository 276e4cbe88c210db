"""Whose work it is: tenants of one service, in threads and tasks, told apart by labels: `python labels.py`."""

import asyncio
import zlib

import everprof

DATA = bytes(range(256)) * 400


def compress(times):
    for _ in range(times):
        zlib.compress(DATA)


@everprof.labels(endpoint="/report")
def report(tenant, times):
    with everprof.labels(tenant=tenant):
        compress(times)


async def serve(tenant, times):
    # In a thread of its own, which has the labels of the task that waits for it.
    await asyncio.to_thread(report, tenant, times)


async def main():
    await asyncio.gather(serve("small", 100), serve("large", 300))


with everprof.profile(rate_hz=250) as block:
    asyncio.run(main())

for tenant, nanos in block.by_label("tenant").items():
    print(f"{tenant or '(none)':10} {nanos // 1_000_000:5} ms of CPU time")
