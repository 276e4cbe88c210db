"""Calls that wait, under all kinds of profiles at 1 kHz: none fails with EINTR, and none ends early. ROUNDS KINDS

Linux never begins `poll`, `nanosleep`, `semop` and their like again after a handler, whatever its flags (signal(7)): so what is tested
is that no signal comes while a thread waits. They are called as C calls them, by `ctypes`, without the interpreter's own
repetition; and once more in Python's words. Each thread computes between its waits, so that its CPU timer is about to expire; and
threads that live for one wait alone are met while they run, and then wait.
"""

import collections
import ctypes
import errno
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import profiler

import everprof

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 500
KINDS = sys.argv[2] if len(sys.argv) > 2 else "cpu,wall,offcpu,threads,alloc,heap,lock"
# Milliseconds of each wait.
WAIT = 3
libc = ctypes.CDLL(None, use_errno=True)
calls, failed, short = collections.Counter(), collections.Counter(), collections.Counter()


class timespec(ctypes.Structure):
    _fields_ = [("s", ctypes.c_long), ("ns", ctypes.c_long)]


def after(milliseconds):
    """That time from now, by the wall clock, as C wants it."""
    at = time.time_ns() + milliseconds * 1_000_000
    return ctypes.byref(timespec(at // 1_000_000_000, at % 1_000_000_000))


def span():
    return ctypes.byref(timespec(0, WAIT * 1_000_000))


def c_call(name, *arguments, ends=()):
    """The name of the error that it has ended with; none where that was one of `ends`, or there was none."""
    ctypes.set_errno(0)
    code = ctypes.get_errno() if getattr(libc, name)(*arguments) == -1 else 0
    return errno.errorcode.get(code, str(code)) if code not in (0, *ends) else None


def limited_call(name, *arguments):
    return c_call(name, *arguments, ends=(errno.EAGAIN, errno.ETIMEDOUT))


class pollfd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


def limited(given):
    """A socket of whose calls C ends each one that nothing comes for: Linux begins none of these again."""
    seconds, micros = (0).to_bytes(8, "little"), (WAIT * 1000).to_bytes(8, "little")
    given.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, seconds + micros)
    return given


def listening():
    server = socket.socket()
    server.bind(("127.0.0.1", 0))
    server.listen()
    return limited(server)


quiet = socket.socketpair()
server = listening()
silent = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
limited(silent[0])
epoll = select.epoll()
epoll.register(quiet[0], select.EPOLLIN)
semaphore = ctypes.create_string_buffer(64)
libc.sem_init(semaphore, 0, 0)
queue = libc.msgget(0, 0o1600)
semaphores = libc.semget(0, 1, 0o1600)
buffer = ctypes.create_string_buffer(64)
IPC_RMID = 0


def c_poll():
    return c_call("poll", ctypes.byref(pollfd(quiet[0].fileno(), select.POLLIN, 0)), 1, WAIT)


def c_ppoll():
    return c_call("ppoll", ctypes.byref(pollfd(quiet[0].fileno(), select.POLLIN, 0)), 1, span(), None)


def c_select():
    return c_call("select", 0, None, None, None, ctypes.byref(timespec(0, WAIT * 1000)))


def c_epoll_wait():
    return c_call("epoll_wait", epoll.fileno(), buffer, 1, WAIT)


def c_nanosleep():
    return c_call("nanosleep", span(), None)


def c_usleep():
    return c_call("usleep", WAIT * 1000)


def c_clock_nanosleep():
    # It answers with the error itself.
    code = libc.clock_nanosleep(time.CLOCK_MONOTONIC, 0, span(), None)
    return errno.errorcode.get(code, str(code)) if code else None


def c_sem_timedwait():
    return limited_call("sem_timedwait", semaphore, after(WAIT))


def c_semtimedop():
    # One down.
    operation = (ctypes.c_short * 3)(0, -1, 0)
    return limited_call("semtimedop", semaphores, operation, 1, span())


def c_sigtimedwait():
    empty = (ctypes.c_ulong * 16)()
    libc.sigaddset(empty, signal.SIGUSR2)
    return limited_call("sigtimedwait", empty, None, span())


def c_recv():
    return limited_call("recv", silent[0].fileno(), buffer, 1, 0)


def c_accept():
    return limited_call("accept", server.fileno(), None, None)


def c_msgrcv():
    """It has no timeout: another thread sends."""
    threading.Timer(WAIT / 1000, send).start()
    return c_call("msgrcv", queue, buffer, 8, 0, 0)


def send():
    message = (ctypes.c_long * 2)(1, 2)
    libc.msgsnd(queue, message, 8, 0)


def py_sleep():
    time.sleep(WAIT / 1000)


def py_select():
    select.select([quiet[0]], [], [], WAIT / 1000)


def py_poll():
    poll = select.poll()
    poll.register(quiet[0], select.POLLIN)
    poll.poll(WAIT)


def py_epoll():
    epoll.poll(WAIT / 1000)


def py_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire(timeout=WAIT / 1000)


def py_condition():
    condition = threading.Condition()
    with condition:
        condition.wait(WAIT / 1000)


def py_recv():
    other = quiet[1].dup()
    other.settimeout(WAIT / 1000)
    try:
        other.recv(1)
    except socket.timeout:
        pass
    finally:
        other.close()


def py_communicate():
    program = subprocess.Popen(["sleep", "0.01"], stdout=subprocess.PIPE)
    assert program.communicate(timeout=60) == (b"", None) and program.returncode == 0


def py_waitpid():
    child = os.posix_spawn("/bin/sleep", ["sleep", "0.01"], os.environ)
    assert os.waitpid(child, 0)[1] == 0


def compute(turns):
    total = 0
    for i in range(turns):
        total += i * i
    return total


def once(function):
    begin = time.monotonic()
    code = function()
    lasted = time.monotonic() - begin
    name = function.__name__
    calls[name] += 1
    if code:
        failed[name, code] += 1
    # Clocks differ by some microseconds, and what another thread ends is as long as that says.
    if lasted < WAIT / 1000 - 0.0005 and function is not c_msgrcv:
        short[name] += 1


def waits(function, rounds):
    for round in range(rounds):
        compute(200 + round * 37 % 4000)
        once(function)


def short_lived(function):
    """Met while it runs, if at all, and then it waits."""
    compute(30_000)
    once(function)


def comes_and_goes(rounds):
    for round in range(rounds):
        several = [threading.Thread(target=short_lived, args=(function,)) for function in in_c]
        [one.start() for one in several], [one.join() for one in several]


in_c = [function for name, function in list(globals().items()) if name.startswith("c_") and name != "c_call"]
in_python = [function for name, function in list(globals().items()) if name.startswith("py_")]
# Programs take longer to start than anybody waits here.
few = {py_communicate, py_waitpid}
with profiler.Run(1000, KINDS) as profile:
    several = [threading.Thread(target=waits, args=(one, ROUNDS // 10 if one in few else ROUNDS)) for one in in_c + in_python]
    several.append(threading.Thread(target=comes_and_goes, args=(ROUNDS // 15,)))
    [one.start() for one in several], [one.join() for one in several]
    stats = everprof.stats()
libc.msgctl(queue, IPC_RMID, None), libc.semctl(semaphores, 0, IPC_RMID, None)
print(f"{sum(calls.values())} calls of {len(calls)} functions, {profile.samples_taken} samples of CPU time, failed: {dict(failed)}, early: {dict(short)}")
assert not failed and not short
assert len(calls) == len(in_c) + len(in_python) and min(calls.values()) >= ROUNDS // 10
# And something was done meanwhile that might have interrupted them.
assert profile.samples_taken > 100 and stats["wall_signals"] == 0
