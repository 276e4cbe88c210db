"""uWSGI, which embeds the interpreter and forks by itself: each worker profiles itself, however it is started."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from conftest import PRELUDE
from pprof import read

UWSGI = shutil.which("uwsgi", path=os.path.dirname(sys.executable))
pytestmark = pytest.mark.skipif(UWSGI is None, reason="NOT TESTED: uwsgi is not installed")

APP = """
def app(environ, start_response):
    burn(0.02)
    start_response("200 OK", [])
    return [str(os.getpid()).encode()]
"""
BY_CODE = """
everprof.start(service="shop", period_s=1, symbolize="names")
app = everprof.wsgi(app, endpoint=lambda environ: environ["PATH_INFO"])
"""
BY_ENVIRONMENT = {"EVERPROF_AUTOSTART": "1", "EVERPROF_SERVICE": "shop", "EVERPROF_PERIOD_S": "1", "EVERPROF_SYMBOLIZE": "names"}


@pytest.mark.parametrize(
    "mode, started",
    [
        ([], "by code"),
        ([], "by environment"),
        (["--lazy-apps"], "by code"),
        (["--enable-threads", "--threads", "2"], "by environment"),
    ],
)
def test_every_worker_profiles_itself(tmp_path, mode, started):
    by_code = started == "by code"
    (tmp_path / "shop.py").write_text(PRELUDE + APP + (BY_CODE if by_code else ""))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [UWSGI, "--http-socket", f"127.0.0.1:{port}", "--master", "--processes", "3", "--need-app", "--die-on-term", *mode]
    command += ["--virtualenv", sys.prefix, "--pythonpath", str(tmp_path), "--module", "shop:app", "--disable-logging"]
    environment = {**os.environ, **({} if by_code else BY_ENVIRONMENT)}
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=log, stderr=log)
    try:
        seen, end = set(), time.monotonic() + 60
        while time.monotonic() < end and (len(seen) < 3 or len(workers(tmp_path, by_code)) < 3):
            assert server.poll() is None, (tmp_path / "log").read_text()
            try:
                seen.add(urllib.request.urlopen(f"http://127.0.0.1:{port}/a", timeout=10).read())
            except OSError:
                time.sleep(0.1)
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(30)
    told = (tmp_path / "log").read_text()
    assert len(seen) == 3 and len(workers(tmp_path, by_code)) == 3, (seen, workers(tmp_path, by_code), told)
    assert code in (0, -signal.SIGTERM) and "Segmentation fault" not in told and "Traceback" not in told, (code, told)


def workers(folder, by_code):
    """The instances that have answered requests."""

    def answers(sample):
        return "burn" in str(sample["stack"]) and (not by_code or sample["labels"].get("endpoint") == "/a")

    return {profile.tags["instance"] for profile in read(folder / "everprof") if any(map(answers, profile.samples))}
