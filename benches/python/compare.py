"""Profilers of Python side by side: each in its own process, in turns, the same work, medians of the rounds.
Lines go to target/bench/python.jsonl, tables here. BENCH_ROUNDS (3), TOPICS ("workload allocations upload")."""

import gzip
import http.server
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
OUT, ROUNDS = sys.argv[1], int(os.environ.get("BENCH_ROUNDS", "3"))
# What it is called, and the module or program without which it is left out.
TOPICS = os.environ.get("TOPICS") or "workload allocations upload"
PEERS = {"bare": None, "everprof": "everprof", "everprof-alloc": "everprof", "py-spy": "py-spy", "pyroscope": "pyroscope", "pyroscope-stack": "pyroscope",
         "ddtrace": "ddtrace", "memray": "memray", "tracemalloc": None}
METRICS = {"app_cpu": "x", "own_cpu": "% of the app's", "start_ms": "ms", "rss_start_kib": "KiB", "rss_thread_kib": "KiB",
           "reported": "% of true CPU", "sent": "bytes"}
# Of allocations alone, and those of them that take many times as long.
ALLOCATORS = {"bare": None, "everprof": "everprof", "ddtrace": "ddtrace", "memray": "memray", "memray-python": "memray",
              "tracemalloc": None}
SLOW = {"memray-python", "tracemalloc"}
# What a minute sends.
SENDERS = {"everprof": "everprof", "pyroscope": "pyroscope", "pyroscope-stack": "pyroscope"}


class Sink(http.server.BaseHTTPRequestHandler):
    """A server that takes everything."""

    bodies = []

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.bodies.append(body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_GET = do_POST

    def log_message(self, *_):
        pass


def fields(bytes_):
    """The fields of a message of protobuf: numbers, and integers or bytes."""
    at = 0

    def integer():
        nonlocal at
        value = shift = 0
        while True:
            byte = bytes_[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(bytes_):
        tag = integer()
        if tag & 7 == 0:
            yield tag >> 3, integer()
        elif tag & 7 == 2:
            length = integer()
            yield tag >> 3, bytes_[at:at + length]
            at += length
        else:
            at += {1: 8, 5: 4}[tag & 7]


def packed(bytes_):
    return [value for number, value in fields(b"".join(b"\x08" + one for one in re.findall(rb"[\x80-\xff]*[\x00-\x7f]", bytes_)))]


def cpu_seconds(profile):
    """CPU time in a profile of pprof's format."""
    types, samples, strings = [], [], []
    for number, value in fields(profile):
        if number == 1:
            types.append(dict(fields(value)).get(1, 0))
        elif number == 2:
            samples.append([one for at, found in fields(value) if at == 2
                            for one in (packed(found) if isinstance(found, bytes) else [found])])
        elif number == 6:
            strings.append(value.decode())
    names = [strings[at] for at in types]
    column = next((at for at, name in enumerate(names) if name in ("cpu", "cpu-time")), None)
    return 0 if column is None else sum(values[column] for values in samples) / 1e9


def inside(body):
    """The profiles in a request, by what compressed bytes begin with."""
    try:
        body = gzip.decompress(body)
    except (OSError, EOFError, zlib.error):
        pass
    yield from pushed(body)
    for found in re.finditer(rb"\x1f\x8b\x08", body):
        try:
            yield zlib.decompressobj(31).decompress(body[found.start():])
        except zlib.error:
            pass
    for found in re.finditer(rb"\x28\xb5\x2f\xfd", body):
        try:
            import zstandard
            yield zstandard.ZstdDecompressor().decompressobj().decompress(body[found.start():])
        except (ImportError, zstandard.ZstdError):
            pass


def pushed(body):
    """What a request to Pyroscope holds where that is not compressed: series, their samples, their profiles."""
    try:
        for series in (value for number, value in fields(body) if number == 1):
            for sample in (value for number, value in fields(series) if number == 2):
                yield from (value for number, value in fields(sample) if number == 1)
    except (IndexError, KeyError, TypeError):
        pass


def reported(bodies):
    total = 0
    for body in bodies:
        for profile in inside(body):
            try:
                total += cpu_seconds(profile)
            except (IndexError, KeyError, UnicodeDecodeError, ValueError):
                pass
    return total


def run(peer, sink, **more):
    Sink.bodies.clear()
    out = tempfile.mkdtemp(prefix="bench-")
    command = [sys.executable, os.path.join(HERE, "workload.py"), peer, sink, out]
    # Native names alone: no peer tells lines of C, and who builds an interpreter with debug information is rare.
    environment = dict(os.environ, EVERPROF_SYMBOLIZE="names", **more)
    app = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    spy = before = None
    while (line := app.stdout.readline()) and line != "ready\n":
        pass
    if peer == "py-spy":
        before = os.times()
        raw = os.path.join(out, "raw")
        spy = subprocess.Popen([program("py-spy"), "record", "-f", "raw", "-r", "100", "-o", raw, "-p", str(app.pid)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        threading.Event().wait(1.5)
    output, errors = app.communicate("\n")
    try:
        found = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        print(f"\n!!! FAILED: {peer}: {app.returncode}\n{output}\n{errors[-3000:]}\n", file=sys.stderr)
        return None
    found["reported_s"] = reported(Sink.bodies)
    found["sent"] = sum(map(len, Sink.bodies))
    if spy:
        spy.communicate()
        after = os.times()
        # It and the program are this process's children: what is not the program's is its own.
        own = after.children_user + after.children_system - before.children_user - before.children_system
        found["own_cpu_s"] = max(0, own - found["true_cpu_s"])
        with open(raw) as file:
            found["reported_s"] = sum(int(line.rsplit(" ", 1)[1]) for line in file) / 100
        found["true_cpu_s"] = found["app_cpu_s"]
    shutil.rmtree(out, ignore_errors=True)
    return found


def program(name):
    return shutil.which(name) or os.path.join(os.path.dirname(sys.executable), name)


def those_here(peers):
    for peer, need in peers.items():
        if need is None or need == "py-spy" and os.path.exists(program(need)) or need != "py-spy" and importlib.util.find_spec(need):
            yield peer
        else:
            print(f"\n!!! SKIPPED: {peer}\n!!! because: it could not be installed\n", file=sys.stderr)


def in_turns(peers, once):
    """What `once` finds of each in each round, as (round, peer, found); every second round goes backwards, so that what the machine
    does meanwhile falls on all alike. Who takes many times as long has one round."""
    peers = list(those_here(peers))
    for number in range(ROUNDS):
        for peer in reversed(peers) if number % 2 else peers:
            if number and peer in SLOW:
                continue
            if found := once(peer):
                print(number, peer, json.dumps({name: round(value, 2) for name, value in found.items()}), file=sys.stderr, flush=True)
                yield number, peer, found


def workload(sink):
    rounds = {}
    for number, peer, found in in_turns(PEERS, lambda peer: run(peer, sink)):
        rounds.setdefault(peer, {})[number] = found
    for peer, found in rounds.items():
        for number, one in found.items():
            one["app_cpu"] = one["app_cpu_s"] / rounds["bare"][number]["app_cpu_s"]
            one["own_cpu"] = one["own_cpu_s"] / one["app_cpu_s"] * 100
            one["reported"] = one["reported_s"] / one["true_cpu_s"] * 100
    return "python", METRICS, rounds


def allocations(_):
    rounds = {}

    def once(peer):
        out = tempfile.mkdtemp(prefix="bench-")
        environment = dict(os.environ, **({"BENCH_PASSES": "1"} if peer in SLOW else {}))
        done = subprocess.run([sys.executable, os.path.join(HERE, "allocations.py"), peer, out], capture_output=True, text=True,
                              env=environment)
        shutil.rmtree(out, ignore_errors=True)
        if done.returncode:
            print(f"\n!!! FAILED: {peer}: {done.returncode}\n{done.stderr[-3000:]}\n", file=sys.stderr)
            return None
        return json.loads(done.stdout.splitlines()[-1])

    for number, peer, found in in_turns(ALLOCATORS, once):
        rounds.setdefault(peer, {})[number] = found
    loops = next(iter(rounds["bare"].values()))
    ratios = {peer: {number: {loop: one[loop] / rounds["bare"][number][loop] for loop in loops} for number, one in found.items()}
              for peer, found in rounds.items()}
    return "python-alloc", dict.fromkeys(loops, "x"), ratios


def upload(sink):
    rounds = {}
    for peer in those_here(SENDERS):
        if found := run(peer, sink, BENCH_SECONDS="60"):
            found["own_cpu"] = found["own_cpu_s"] / found["app_cpu_s"] * 100
            found["reported"] = found["reported_s"] / found["true_cpu_s"] * 100
            rounds[peer] = {0: found}
    return "python-minute", {name: METRICS[name] for name in ("own_cpu", "reported", "sent")}, rounds


def tell(lines, case, metrics, rounds):
    medians = {peer: {metric: statistics.median(one[metric] for one in found.values()) for metric in metrics}
               for peer, found in rounds.items()}
    print(f"\n| {case} | " + " | ".join(f"{metric} ({unit})" for metric, unit in metrics.items()) + " |")
    print("|---" * (len(metrics) + 1) + "|")
    for peer, row in medians.items():
        print(f"| {peer} | " + " | ".join(f"{value:.2f}" if value < 100 else f"{value:.0f}" for value in row.values()) + " |", flush=True)
    own = medians.get("everprof", {})
    for peer, row in medians.items():
        for metric, value in row.items() if peer != "everprof" else ():
            ours = own.get(metric)
            ratio = ours / value if ours is not None and value else None
            lines.write(json.dumps({"case": case, "metric": metric, "unit": metrics[metric], "everprof": ours,
                                    "peer": value, "peer_name": peer, "ratio": ratio}) + "\n")


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sink = f"127.0.0.1:{server.server_port}"
    with open(os.path.join(OUT, "python.jsonl"), "w") as lines:
        for topic in (workload, allocations, upload):
            if topic.__name__ in TOPICS.split():
                tell(lines, *topic(sink))


main()
