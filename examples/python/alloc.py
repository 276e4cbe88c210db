"""Allocations: what allocates, and what of it stays: `python alloc.py`."""

import everprof


def fill_cache():
    return [bytes(100_000) for _ in range(200)]


def render_page():
    return b"".join(b"row %d\n" % row + bytes(200_000) for row in range(20))


with everprof.profile("heap", interval_bytes="64KiB") as block:
    cache = fill_cache()
    for _ in range(50):
        render_page()

block.save("alloc.html")
print(f"{block.totals['alloc_space'] >> 20} MiB allocated, {block.totals['inuse_space'] >> 20} MiB of them live")
