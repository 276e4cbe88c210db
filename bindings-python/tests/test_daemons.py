"""Daemons: they fork twice, leave their terminal, and close every descriptor that they have not opened, ours among them."""

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from conftest import PRELUDE
from pprof import read

# Closes all descriptors, and has files and sockets of its own under their numbers then.
CLOSES = """
import select, socket, tempfile, urllib.request

def is_ours(number):
    try: target = os.readlink(f"/proc/self/fd/{number}")
    except OSError: return False
    return "socket:" in target or "perf_event" in target or "lock" in target

class Own:
    def __init__(self):
        self.closed = [number for number in map(int, os.listdir("/proc/self/fd")) if number > 2 and is_ours(number)]
        os.closerange(3, 4096)
        self.files = {}
        for name in range(20):
            number = os.open(f"own-{name}", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
            os.write(number, b"mine" * 1000); os.lseek(number, 1000, 0)
            self.files[number] = os.fstat(number)
        self.pairs = [socket.socketpair() for _ in range(20)]
        self.numbers = {end.fileno(): os.fstat(end.fileno()) for pair in self.pairs for end in pair}

    def check(self):
        same = lambda a, b: (a.st_dev, a.st_ino, a.st_size) == (b.st_dev, b.st_ino, b.st_size)
        for number, stat in {**self.files, **self.numbers}.items():
            assert same(os.fstat(number), stat), ("another file", number)
        for number in self.files:
            assert os.lseek(number, 0, 1) == 1000, ("read or written", number)
            assert os.pread(number, 5000, 0) == b"mine" * 1000, ("written", number)
        ready, _, _ = select.select(list(self.numbers), [], [], 0)
        assert not ready, ("written or closed", ready)
"""


@pytest.fixture
def collector():
    """A server that profiles are pushed to: it keeps connections, and what came."""
    came = []

    class Takes(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            came.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Takes)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1], came
    server.shutdown()
    thread.join()
    server.server_close()


# What is open for a moment only, such as a folder that is read, may be closed by the program as well, and its number be another
# file's when we close it: seldom, and not mended yet. With perf events more is opened.
RARELY = pytest.mark.xfail(strict=False, reason="descriptors that are open for a moment are not safe from a program that closes all")


@pytest.mark.parametrize("clock", ["timer", pytest.param("perf_event", marks=RARELY)])
def test_a_program_that_closes_every_descriptor_keeps_its_own(program, collector, clock):
    port, came = collector
    done = program(
        f"""
        spool = tempfile.mkdtemp(dir=".")
        everprof.start(service="x", period_s=1, serve="127.0.0.1:0", cpu_clock={clock!r}, kinds="cpu,wall", wall_rate_hz=100,
                       push=["pyroscope+http://127.0.0.1:{port}", "pyroscope+http://127.0.0.1:9"], push_spool=spool)
        burn(2)
        address = everprof.stats()["serve_address"]
        ask = lambda: urllib.request.urlopen(f"http://{{address}}/debug/pprof/cmdline", timeout=20).read()
        assert ask()
        own = [Own()]
        for _ in range(2):
            for _ in range(30):
                burn(0.1)
                own[-1].check()
            # What holds the server up is that it sleeps for five seconds at most.
            end = time.monotonic() + 30
            while True:
                try:
                    ask()
                    break
                except OSError:
                    if time.monotonic() > end: raise
                    time.sleep(0.2)
            own[-1].check()
            before = everprof.stats()
            # Events that were closed are missed by the next full look at the threads, which is once a second.
            for _ in range(20):
                burn(0.5)
                after = everprof.stats()
                if after["samples"] > before["samples"] and after["exported"] > before["exported"]:
                    break
            assert after["samples"] > before["samples"] and after["cpu_clock"] == before["cpu_clock"], (before, after)
            print(len(own[-1].closed), after["exported"] - before["exported"])
            own.append(Own())
        everprof.stop()
        own[-1].check()
        """,
        prelude=PRELUDE + CLOSES,
        timeout=120,
    )
    closed = [list(map(int, line.split())) for line in done.out.splitlines()]
    # The port, two ends of a bell and the lock of a folder at the least: else nothing was shown.
    assert len(closed) == 2 and all(numbers >= 4 and exported > 0 for numbers, exported in closed), (done.out, done.err)
    assert len(came) >= 5


def test_a_daemon_goes_on(program, collector):
    """As the package python-daemon makes one, and as many do by hand."""
    port, came = collector
    done = program(
        f"""
        import traceback
        everprof.start(service="x", period_s=1, serve="127.0.0.1:0", push=["dir", "pyroscope+http://127.0.0.1:{port}"])
        burn(1.5)
        folder = os.getcwd()
        if os.fork(): os._exit(0)
        os.setsid()
        if os.fork(): os._exit(0)
        os.chdir("/"); os.umask(0o22)
        os.closerange(0, 4096)
        for _ in range(3): os.open("/dev/null", os.O_RDWR)
        os.chdir(folder); own = Own(); os.chdir("/")
        try:
            for _ in range(30):
                burn(0.1)
                own.check()
            told = str(everprof.stats()["running"])
        except BaseException:
            told = traceback.format_exc()
        with open(folder + "/new", "w") as file: file.write(told)
        os.rename(folder + "/new", folder + "/told")
        """,
        prelude=PRELUDE + CLOSES,
    )
    end = time.monotonic() + 60
    while not (program.folder / "told").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert (program.folder / "told").read_text() == "True", done.err
    # Also the last profile, which is written at the end.
    cpu = lambda: sum(profile.total("cpu") for profile in done.profiles() if profile.tags["instance"] != first)
    first = done.profiles()[0].tags["instance"]
    while cpu() < 2.5e9 and time.monotonic() < end:
        time.sleep(0.1)
    assert 2.5e9 < cpu() < 4e9, cpu()


def test_gunicorn_as_a_daemon(tmp_path):
    pytest.importorskip("gunicorn", reason="NOT TESTED: gunicorn is not installed")
    app = """
def app(environ, start_response):
    burn(0.02)
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""
    (tmp_path / "shop.py").write_text(PRELUDE + app)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--daemon", "--pid", "pid", "-w", "2", "-b", f"127.0.0.1:{port}", "shop:app"]
    environment = {"EVERPROF_AUTOSTART": "1", "EVERPROF_PERIOD_S": "1", "EVERPROF_SYMBOLIZE": "names", "EVERPROF_SERVICE": "shop"}
    subprocess.run(command, cwd=tmp_path, env={**os.environ, **environment}, check=True, timeout=60)
    pid, seen, end = tmp_path / "pid", set(), time.monotonic() + 60
    try:
        while time.monotonic() < end and (len(seen) < 2 or len(workers(tmp_path)) < 2):
            try:
                seen.add(urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10).read())
            except OSError:
                time.sleep(0.1)
    finally:
        if pid.exists():
            os.kill(int(pid.read_text()), signal.SIGTERM)
    assert len(seen) == 2 and len(workers(tmp_path)) == 2, (seen, workers(tmp_path))
    while pid.exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not pid.exists()


def workers(folder):
    """The instances that have answered requests."""
    return {profile.tags["instance"] for profile in read(folder / "everprof") if profile.has("burn")}
