"""Datadog's own profiler for Python at work for some seconds, with requests, locks and allocations."""

import threading
import time

import ddtrace.profiling.auto  # noqa: F401
from ddtrace.trace import tracer

lock = threading.Lock()
begin = time.time()
while time.time() - begin < 4:
    with tracer.trace("web.request", resource="GET /x", span_type="web", service="shop"), lock:
        kept = [object() for _ in range(1000)]
        sum(i * i for i in range(100_000))
