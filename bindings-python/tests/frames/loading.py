"""Libraries with variables of each thread's come all the time, while threads are interrupted: the handler asks for no memory then.

Each of them may make the C library renew what every thread knows of such libraries, at the next access through it: that is not to be
one in the handler, which may have interrupted `malloc`. It is watched by `handler_memory.c`; also in a program that loaded
the interpreter late (`embedded.c`), where the interpreter's own variables are of that kind.
"""

import ctypes
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
MANY = 120


def inside(folder):
    import everprof

    everprof.start(dir=folder, rate_hz=997, kinds="cpu,wall,alloc,heap,block,mutex,lock,threads", wall_rate_hz=200, cpu_budget_percent=100, period_s=600)
    off = everprof.stats()["frames_off"]
    assert off is None, off
    ends = threading.Event()

    def burn():
        while not ends.is_set():
            # Without the interpreter's lock for long, so that the handler is the first to look after a library came.
            hashlib.pbkdf2_hmac("sha256", b"key", b"salt", 50_000)

    threads = [threading.Thread(target=burn) for _ in range(4)]
    [thread.start() for thread in threads]
    for number in range(MANY):
        ctypes.CDLL(f"{folder}/lib{number}.so")
        time.sleep(0.01)
    ends.set()
    [thread.join() for thread in threads]
    for _ in range(20):
        try:
            everprof.flush()
            break
        except everprof.UnavailableError:
            # A busy machine takes longer than the two seconds of one.
            pass
    samples = everprof.stats()["samples"]
    assert samples > 50, samples
    print("samples", samples)


def compile(source, to, *more):
    subprocess.run([os.environ.get("CC", "cc"), "-o", to, source, *more], check=True)


def main():
    folder = tempfile.mkdtemp(prefix="everprof-")
    try:
        watch = f"{folder}/watch.so"
        compile(f"{HERE}/handler_memory.c", watch, "-shared", "-fPIC", "-g")
        with open(f"{folder}/lib.c", "w") as file:
            file.write("__thread char mine[64]; char *get(void) { return mine; }")
        compile(f"{folder}/lib.c", f"{folder}/lib0.so", "-shared", "-fPIC")
        # The loader knows a library by its file.
        [shutil.copy(f"{folder}/lib0.so", f"{folder}/lib{number}.so") for number in range(1, MANY)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path[1:]), "PYTHONHOME": sys.base_prefix}
        script = [os.path.abspath(__file__), "inside", folder]
        programs = {"the interpreter": [sys.executable, *script]}
        name = sysconfig.get_config_var("INSTSONAME") or "-"
        folders = [sysconfig.get_config_var("LIBDIR") or "", *glob.glob(f"{sys.base_prefix}/lib/*-linux-gnu")]
        library = next((at for at in (os.path.join(one, name) for one in folders) if os.path.exists(at)), None)
        if sysconfig.get_config_var("Py_ENABLE_SHARED") and library:
            compile(f"{HERE}/embedded.c", f"{folder}/embedded", "-pthread", "-ldl")
            # One that was unpacked beside a C library of its own.
            loader = glob.glob(f"{os.path.dirname(library)}/ld-linux-*.so.*")[:1]
            loader += ["--library-path", os.path.dirname(library)] if loader else []
            programs["a program that loads it late"] = [*loader, f"{folder}/embedded", library, *script]
        else:
            print("NOT TESTED: an interpreter that is loaded late, since this one is no shared library")
        for name, program in programs.items():
            # What is asked of the interpreter's functions at the start is bound there, not in the handler.
            done = subprocess.run(program, env={**environment, "LD_PRELOAD": watch}, capture_output=True, text=True, timeout=120)
            assert done.returncode == 0 and done.stdout.startswith("samples"), (name, done.returncode, done.stdout, done.stderr)
            print(name, done.stdout.strip())
    finally:
        shutil.rmtree(folder)


inside(sys.argv[2]) if sys.argv[1:2] == ["inside"] else main()
