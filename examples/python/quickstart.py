"""One line, and where the CPU time went is a profile in ./everprof: `python quickstart.py`, then open flamegraph.html."""

import hashlib
import time

import everprof

everprof.start(service="quickstart")


def count_primes(limit):
    return sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, limit))


def digest_words(count):
    return hashlib.sha256(b" ".join(b"word %d" % n for n in range(count)) * 100).hexdigest()


def serve_requests(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        count_primes(2_000)
        digest_words(1_000)


with everprof.profile() as block:
    serve_requests(2)
block.save("flamegraph.html")
print(block.top(10))
