"""Profiles of a program of Python at the real servers, asked back from them: names, files, lines, labels and tags.

`make test-servers` and CI build Parca into target/servers, which EVERPROF_TEST_SERVERS names; EVERPROF_TEST_PYROSCOPE names the program
of Grafana's Pyroscope, version 2, where it was built by other means.
"""

import base64
import json
import os
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest

from pprof import Pprof

SHOP = '''
import asyncio, os, sys, time
import everprof

def sell(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(1000))

@lambda app: everprof.wsgi(app, endpoint=lambda environ: environ["PATH_INFO"])
def app(environ, start_response):
    sell(0.6)
    start_response("200 OK", [])
    return [b"sold"]

async def order(tenant, seconds):
    with everprof.labels(tenant=tenant):
        for _ in range(10):
            sell(seconds / 10)
            await asyncio.sleep(0)

async def main():
    await asyncio.gather(order("a", 0.9), order("b", 0.3))

everprof.start(service="shop", version="1.0", tags={"region": "eu"}, kinds="cpu,wall", rate_hz=199, cpu_budget_percent=100, push=sys.argv[1])
b"".join(app({"PATH_INFO": "/buy"}, lambda *_: None))
asyncio.run(main())
end = time.monotonic() + 30
try: everprof.flush()
except everprof.UnavailableError: pass
while everprof.stats()["exported"] == 0 and time.monotonic() < end: time.sleep(0.1)
print(everprof.stats()["exported"], everprof.stats()["last_problem"])
'''
SELL = range(SHOP.split("\n").index("def sell(seconds):") + 2, SHOP.split("\n").index("def sell(seconds):") + 5)


def ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    found = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return found


def ask(port, path, body=None):
    headers = {} if body is None else {"content-type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, headers), timeout=60).read()


def wait(server, port, path, word=b""):
    end = time.monotonic() + 120
    while True:
        try:
            if word in ask(port, path):
                return
        except OSError:
            pass
        assert server.poll() is None and time.monotonic() < end, "the server does not come up: see its log"
        time.sleep(0.2)


@pytest.fixture
def parca(tmp_path):
    """Parca, as it is published: what a selector has, as stacks."""
    folder = os.environ.get("EVERPROF_TEST_SERVERS")
    if not folder:
        pytest.skip("NOT TESTED here: EVERPROF_TEST_SERVERS names no folder (make test-servers builds them)")
    program = Path(folder) / "parca"
    if not program.is_file():
        assert os.environ.get("CI") != "true", f"{program} is not there"
        pytest.skip("!!! NOT TESTED: Parca was not built, for which go is needed")
    [port], home = ports(1), tmp_path / "parca"
    home.mkdir()
    (home / "parca.yaml").write_text(f"object_storage: {{bucket: {{type: FILESYSTEM, config: {{directory: {home}}}}}}}\n")
    options = [f"--config-path={home}/parca.yaml", f"--http-address=127.0.0.1:{port}", "--storage-active-memory=134217728"]
    options += [f"--debuginfo-cache-dir={home}", "--debuginfod-upstream-servers=127.0.0.1:1"]
    with open(home / "log", "w") as log:
        server = subprocess.Popen([program, *options], stdout=log, stderr=log)

    def query(kind, selector):
        types = {"cpu": "process_cpu:cpu:nanoseconds:cpu:nanoseconds:delta", "wall": "wall:wall:nanoseconds:wall:nanoseconds:delta"}
        moment = lambda shift: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + shift))
        terms = {"merge.query": types[kind] + selector, "merge.start": moment(-3600), "merge.end": moment(3600)}
        path = "/api/profiles/query?mode=MODE_MERGE&report_type=REPORT_TYPE_PPROF&" + urllib.parse.urlencode(terms)
        return stacks_of_pprof(base64.b64decode(json.loads(ask(port, path))["pprof"]))

    wait(server, port, "/api/profiles/types")
    yield SimpleNamespace(push=f"parca+http://127.0.0.1:{port}", query=query)
    server.kill()
    server.wait()


@pytest.fixture
def pyroscope(tmp_path):
    """Grafana's own, version 2, in one process."""
    program = os.environ.get("EVERPROF_TEST_PYROSCOPE")
    if not program:
        pytest.skip("NOT TESTED here: EVERPROF_TEST_PYROSCOPE names no program of Grafana's Pyroscope")
    (http, grpc, raft, members), home, here = ports(4), tmp_path / "pyroscope", "127.0.0.1"
    home.mkdir()
    options = f"""
        -target=all -architecture.storage=v2 -storage.backend=filesystem -storage.filesystem.dir={home}/shared
        -metastore.data-dir={home}/meta -metastore.raft.dir={home}/raft -metastore.raft.snapshots-dir={home}/raft
        -server.http-listen-address={here} -server.http-listen-port={http} -server.grpc-listen-address={here}
        -server.grpc-listen-port={grpc} -metastore.address={here}:{grpc} -query-backend.address={here}:{grpc}
        -metastore.raft.server-id={here}:{raft} -metastore.raft.bind-address={here}:{raft}
        -metastore.raft.advertise-address={here}:{raft} -memberlist.bind-addr={here} -memberlist.bind-port={members}
        -memberlist.advertise-addr={here} -memberlist.advertise-port={members} -segment-writer.lifecycler.addr={here}
        -distributor.ring.instance-addr={here} -overrides-exporter.ring.instance-addr={here}
        -query-scheduler.ring.instance-addr={here} -query-frontend.instance-addr={here} -distributor.ring.store=inmemory
        -overrides-exporter.ring.store=inmemory -query-scheduler.ring.store=inmemory -segment-writer.min-ready-duration=0s
        -metastore.min-ready-duration=0s -segment-writer.metadata-update-timeout=0s -self-profiling.disable-push=true
        -usage-stats.enabled=false -tracing.enabled=false -pyroscopedb.data-path={home}/db -compactor.data-dir={home}/compactor
        -ring.store=inmemory -ingester.lifecycler.addr={here} -ingester.min-ready-duration=0s
        -compactor.ring.instance-addr={here} -compactor.ring.store=inmemory -store-gateway.sharding-ring.instance-addr={here}
        -store-gateway.sharding-ring.store=inmemory"""
    with open(home / "log", "w") as log:
        server = subprocess.Popen([program, *options.split()], stdout=log, stderr=log)

    def query(kind, selector):
        types = {"cpu": "process_cpu:cpu:nanoseconds:cpu:nanoseconds", "wall": "wall:wall:nanoseconds:wall:nanoseconds"}
        now = int(time.time() * 1000)
        asked = {"profile_typeID": types[kind], "label_selector": selector, "start": now - 3_600_000, "end": now + 3_600_000}
        return stacks_of_json(json.loads(ask(http, "/querier.v1.QuerierService/SelectMergeProfile", asked)))

    wait(server, http, "/ready")
    wait(server, http, "/ring-segment-writer", b"ACTIVE")
    yield SimpleNamespace(push=f"pyroscope+http://127.0.0.1:{http}", query=query)
    server.kill()
    server.wait()


def stacks_of_pprof(content):
    """Each stack, leaf first, as names, files and lines, with its nanoseconds."""
    return [(sample["places"], list(sample["values"].values())[0]) for sample in Pprof(content).samples]


def stacks_of_json(profile):
    text, at = profile.get("stringTable", []), lambda one, name: int(one.get(name, 0))
    functions = {at(one, "id"): (text[at(one, "name")], text[at(one, "filename")]) for one in profile.get("function", [])}
    lines = {one["id"]: [(*functions[at(line, "functionId")], at(line, "line")) for line in one.get("line", [])] for one in profile.get("location", [])}
    of = lambda sample: [place for location in sample.get("locationId", []) for place in lines[location]]
    return [(of(sample), int(sample["value"][0])) for sample in profile.get("sample", [])]


def sold(stacks, path):
    """Nanoseconds in `sell`, all of them at its lines of that file."""
    total = 0
    for places, nanos in stacks:
        at = [place for place in places if place[0].endswith("sell")]
        assert all(Path(file) == path and line in SELL for _, file, line in at), at
        total += nanos if at else 0
    return total


def shown(server, program):
    path = program.folder / "program.py"
    done = program(SHOP, server.push, prelude="")
    assert not done.out.startswith("0 "), (done.out, done.err)
    shop = 'service_name="shop",version="1.0",region="eu"'
    asked = lambda kind, more: sold(until_there(server, kind, "{" + shop + more + "}"), path) / 1e9
    # Work of the processor's by whom it was for, and waits in the same places.
    assert 0.5 < asked("cpu", ',endpoint="/buy"') < 0.7
    assert 0.75 < asked("cpu", ',tenant="a"') < 1.05
    assert 0.2 < asked("cpu", ',tenant="b"') < 0.4
    assert 1.6 < asked("cpu", "") < 2.0
    assert asked("wall", ',tenant="a"') > 0.7
    assert [places for places, _ in until_there(server, "cpu", "{" + shop + ',tenant="a"}') if any(place[0].endswith("order") for place in places)]


def until_there(server, kind, selector):
    """A server may take its time until it finds what it has taken."""
    end = time.monotonic() + 60
    while True:
        try:
            found = server.query(kind, selector)
            if found:
                return found
        except OSError as error:
            found = error
        assert time.monotonic() < end, (kind, selector, found)
        time.sleep(0.5)


def test_parca_has_it_all(parca, program):
    shown(parca, program)


def test_pyroscope_has_it_all(pyroscope, program):
    shown(pyroscope, program)
