"""Programs as others write them, with everprof on: they do what they do without it, and their profiles say what they did.

Not collected with the rest (its name is no `test_*`): `make test-python-real` runs it where what it needs is installed.
"""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import pytest

from pprof import _fields, read

# Everything at once, much faster than anyone would have it.
ALL = {"EVERPROF_KINDS": "cpu,wall,alloc,heap,lock", "EVERPROF_RATE_HZ": "1000"}
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith("EVERPROF_")}


def run(arguments, folder, timeout=170, **environment):
    """Output, exit code, and the CPU time of the program and of what it has waited for."""
    before = os.times()
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**CLEAN, "EVERPROF_SYMBOLIZE": "names", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=timeout,
    )
    after = os.times()
    done.cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return done


def places(folder, kind="cpu"):
    """Function, file and line of all that has samples."""
    found = set()
    for path in folder.rglob(f"*.{kind}.pb.gz"):
        fields = _fields(gzip.decompress(path.read_bytes()))
        strings = [value.decode() for number, value in fields if number == 6]
        functions = {}
        for function in (dict(_fields(value)) for number, value in fields if number == 5):
            functions[function[1]] = (strings[function.get(2, 0)], os.path.basename(strings[function.get(4, 0)]))
        for location in (_fields(value) for number, value in fields if number == 4):
            for line in (dict(_fields(value)) for number, value in location if number == 4):
                found.add((*functions[line[1]], line.get(2, 0)))
    return found


def has(found, function, file, text):
    """Whether the function has samples in the lines between its `def` and its end."""
    lines = text.splitlines()
    begin = next(at for at, line in enumerate(lines, 1) if re.match(rf"\s*def {function}\(", line))
    end = next((at for at, line in enumerate(lines[begin:], begin + 1) if line and not line[0].isspace()), len(lines) + 1)
    return any(name.split(".")[-1] == function and where == file and begin <= line < end for name, where, line in found)


def instances(folder):
    """The CPU time of each instance, in seconds."""
    found = {}
    for profile in read(folder):
        instance = profile.tags["instance"]
        found[instance] = found.get(instance, 0) + profile.total("cpu") / 1e9
    return found


SHOP = """
import os
import flask, sqlalchemy as sql
{start}
app = flask.Flask(__name__)
engine = sql.create_engine("sqlite:///shop.db")
goods = sql.Table("goods", sql.MetaData(), sql.Column("id", sql.Integer, primary_key=True), sql.Column("name", sql.String))

def prepare():
    with engine.begin() as connection:
        goods.metadata.create_all(connection)
        connection.execute(sql.insert(goods), [dict(name=f"thing {{n}}") for n in range(300)])
    engine.dispose()

@app.route("/goods/<int:after>")
def list_goods(after):
    with engine.connect() as connection:
        rows = connection.execute(sql.select(goods).where(goods.c.id > after).order_by(goods.c.name)).all()
    return flask.jsonify(pid=os.getpid(), names=[row.name for row in rows])
"""
START = "import everprof; everprof.start(service='shop', period_s=2)"


@pytest.mark.parametrize("way", ["in each worker", "preload", "run", "autostart"])
def test_a_service_of_flask_sqlalchemy_and_gunicorn(tmp_path, way):
    text = SHOP.format(start="" if way in ("run", "autostart") else START)
    (tmp_path / "shop.py").write_text(text)
    assert run(["-c", "import shop; shop.prepare()"], tmp_path, EVERPROF_ENABLED="false").returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    everprof = ["-m", "everprof", "run", "--service", "shop", "--period-s", "2"] if way == "run" else []
    environment = {"EVERPROF_AUTOSTART": "1", "EVERPROF_PERIOD_S": "2"} if way == "autostart" else {}
    preload = ["--preload"] if way == "preload" else []
    command = [sys.executable, *everprof, "-m", "gunicorn", *preload, "-w", "4", "-b", f"127.0.0.1:{port}", "shop:app"]
    with open(tmp_path / "log", "w") as log:
        server = subprocess.Popen(
            command, cwd=tmp_path, env={**CLEAN, **ALL, "EVERPROF_SYMBOLIZE": "names", **environment}, stderr=log
        )
    answers, wrong, end = set(), [], time.monotonic() + 60

    def ask():
        while time.monotonic() < end and not (len(answers) >= 4 and len(instances(tmp_path)) >= 4):
            try:
                answer = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/goods/100", timeout=20))
                answers.add(answer["pid"])
                if len(answer["names"]) != 200:
                    wrong.append(answer)
            except ConnectionError:
                time.sleep(0.1)
            except OSError as error:
                if "refused" not in str(error):
                    wrong.append(error)
                time.sleep(0.1)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    server.send_signal(signal.SIGTERM)
    _, status, usage = os.wait4(server.pid, 0)
    server.returncode = os.waitstatus_to_exitcode(status)
    said = (tmp_path / "log").read_text()
    assert server.returncode == 0 and not wrong, (server.returncode, wrong[:3], said)
    assert "Worker exiting" in said and "SIGSEGV" not in said and "Traceback" not in said, said
    found = instances(tmp_path)
    assert len(answers) == 4 and len(found) >= 4, (answers, found)
    assert has(places(tmp_path), "list_goods", "shop.py", text)
    assert any(file == "base.py" for _, file, _ in places(tmp_path)), "nothing of SQLAlchemy"
    share = sum(found.values()) / (usage.ru_utime + usage.ru_stime)
    print(f"{way}: {share:.2f} of the CPU time in {len(found)} instances")
    # What there was before the start is in no profile, nor are everprof's own threads.
    assert 0.1 < share < 1.1


NUMBERS = """
import os, time
import numpy, pandas

def group(frame):
    return frame.groupby("key").value.agg(["mean", "sum", "count"])

def solve(size):
    one = numpy.random.default_rng(1).random((size, size))
    return numpy.linalg.solve(one, numpy.ones(size)).sum()

def slow(frame):
    return frame.value.apply(lambda value: value * 2 if value > 0.5 else -value).sum()

rng = numpy.random.default_rng(7)
frame = pandas.DataFrame(dict(key=rng.integers(0, 100, 300_000), value=rng.random(300_000)))
for _ in range(5):
    print(group(frame).sum().round(6).to_dict(), round(solve(400), 6), round(slow(frame), 6))
"""


def test_a_job_of_numpy_and_pandas(tmp_path):
    (tmp_path / "numbers_.py").write_text(NUMBERS)
    bare = run(["numbers_.py"], tmp_path)
    done = run(["-m", "everprof", "run", "numbers_.py"], tmp_path, **ALL)
    assert (done.returncode, done.stdout) == (bare.returncode, bare.stdout) == (0, bare.stdout), done.stderr
    found = places(tmp_path)
    for function in ("group", "solve", "slow"):
        assert has(found, function, "numbers_.py", NUMBERS), function
    (cpu,) = instances(tmp_path).values()
    print(f"numpy: {cpu:.2f} s of {done.cpu:.2f} s, {bare.cpu:.2f} s without")
    assert 0.3 * done.cpu < cpu < 1.05 * done.cpu


TASKS = """
import os, time
import celery
{start}
app = celery.Celery("tasks", broker="filesystem://", backend="file://" + os.path.abspath("results"))
app.conf.broker_transport_options = dict(
    data_folder_in="queue", data_folder_out="queue", control_folder="control", store_processed=False
)

@app.task
def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        sum(range(1000))
    return os.getpid()
"""


def test_a_prefork_worker_of_celery(tmp_path):
    text = TASKS.format(start="import everprof\nif os.environ.get('WORKER'): everprof.start(service='tasks', period_s=2)")
    (tmp_path / "tasks.py").write_text(text)
    for name in ("queue", "control", "results"):
        (tmp_path / name).mkdir()
    with open(tmp_path / "log", "w") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "tasks", "worker", "-c", "2", "--without-gossip", "--without-mingle"],
            cwd=tmp_path,
            env={**CLEAN, **ALL, "EVERPROF_SYMBOLIZE": "names", "WORKER": "1"},
            stdout=log,
            stderr=log,
        )
    try:
        code = "import tasks\nprint(len({task.get(timeout=60) for task in [tasks.work.delay(0.3) for _ in range(16)]}))"
        asked = run(["-c", code], tmp_path, timeout=90)
        end = time.monotonic() + 30
        while time.monotonic() < end and sum(cpu > 0.3 for cpu in instances(tmp_path).values()) < 2:
            time.sleep(0.2)
    finally:
        worker.send_signal(signal.SIGTERM)
        code_is = worker.wait(30)
    said = (tmp_path / "log").read_text()
    assert asked.returncode == 0 and asked.stdout == "2\n" and code_is == 0, (asked.stderr, code_is, said)
    assert sum(cpu > 0.3 for cpu in instances(tmp_path).values()) >= 2, (instances(tmp_path), said)
    assert has(places(tmp_path), "work", "tasks.py", text)


SUITE = """
import threading, pytest
@pytest.mark.parametrize("n", range(20))
def test_good(n):
    assert sum(range(200_000)) == 19999900000
def test_bad():
    assert "one" == "two"
def test_raises():
    with pytest.raises(ZeroDivisionError): 1 / 0
@pytest.mark.skip
def test_skipped(): pass
"""


def test_pytest_under_run(tmp_path):
    (tmp_path / "test_suite.py").write_text(SUITE)
    bare = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA"], tmp_path)
    done = run(["-m", "everprof", "run", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rA"], tmp_path, **ALL)
    timeless = lambda text: re.sub(r" in [0-9.]+s", "", text)
    assert done.returncode == bare.returncode == 1 and timeless(done.stdout) == timeless(bare.stdout), done.stdout + done.stderr
    assert has(places(tmp_path), "test_good", "test_suite.py", SUITE)


@pytest.mark.parametrize("suite", ["test_json test_re test_generators test_exceptions", "test_threading test_queue", "test_subprocess"])
def test_the_suites_of_cpython_itself(tmp_path, suite):
    if run(["-c", "import test.test_json"], tmp_path).returncode != 0:
        pytest.skip("NOT TESTED: this Python comes without its tests")
    bare = run(["-m", "test", *suite.split()], tmp_path)
    done = run(["-m", "everprof", "run", "-m", "test", *suite.split()], tmp_path, **ALL)
    said = f"{bare.stdout[-3000:]}\n=== with everprof\n{done.stdout[-6000:]}{done.stderr[-3000:]}"
    assert done.returncode == bare.returncode, said
    assert read(tmp_path), said


# What threads, event loops, forks, templates, regular expressions and SQLite are used in.
DJANGO = "admin_views asgi async auth_tests cache contenttypes_tests dispatch file_storage forms_tests handlers i18n mail queries"
DJANGO += " requests_tests servers sessions_tests template_tests transactions urlpatterns_reverse utils_tests view_tests"


def test_the_suite_of_django(tmp_path):
    """The same tests fail and pass with everything on as without."""
    source = os.environ.get("EVERPROF_TEST_DJANGO")
    if not source:
        pytest.skip("NOT TESTED: EVERPROF_TEST_DJANGO names no folder with Django's source")
    kinds = "cpu,wall,alloc,heap,peak,lock,mutex,block,threads"
    command = ["runtests.py", "--settings=test_sqlite", "--parallel=1", "--verbosity=0", *DJANGO.split()]

    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))

    def suite(*before, **environment):
        done = run([*before, *command], os.path.join(source, "tests"), 1800, PYTHONPATH=path, **environment)
        failed = sorted(re.findall(r"^(?:FAIL|ERROR): .*", done.stderr, re.MULTILINE))
        ran = re.search(r"^Ran (\d+) tests", done.stderr, re.MULTILINE)
        assert ran, done.stderr[-5000:]
        return int(ran[1]), done.returncode, failed, done.stderr

    bare = suite()
    done = suite("-m", "everprof", "run", "--dir", str(tmp_path), **{**ALL, "EVERPROF_KINDS": kinds})
    assert bare[0] > 4000 and done[:3] == bare[:3], (bare[:3], done[:3], done[3][-5000:])
    assert any(file == "runtests.py" for _, file, _ in places(tmp_path))
    print(f"Django: {done[0]} tests, {len(done[2])} fail as they do without")
