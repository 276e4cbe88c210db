"""Everything that moves frames and code at once, under a storm of samples: SECONDS HZ KINDS. No crash, and no wrong name: each frame
has to be of a function that its file has, at a line of that function; code that lives for a moment has its number in its
name, its file and its line, and in those of what it calls."""

import asyncio
import collections
import colorsys
import contextvars
import ctypes
import gc
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback

import everprof
import profiler

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 5
HZ = int(sys.argv[2]) if len(sys.argv) > 2 else 3000
END = time.monotonic() + SECONDS + 1e9
done = collections.Counter()


def going(what):
    done[what] += 1
    return time.monotonic() < END


def work(n=200):
    total = 0
    for i in range(n):
        total += i * i
    return total


def churn():
    while going("threads"):
        threads = [threading.Thread(target=work, args=(5000,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def raising(depth):
    try:
        if depth:
            return raising(depth - 1)
        raise KeyError(depth)
    finally:
        work(3)


def exceptions():
    while going("exceptions"):
        try:
            raising(30)
        except KeyError as error:
            work(len(str(error)))


def counting(n):
    for i in range(n):
        yield i
        work(2)


def nested(depth, n):
    if depth:
        yield from nested(depth - 1, n)
    else:
        yield from counting(n)


def generators():
    while going("generators"):
        sum(nested(10, 30))
        left = nested(5, 10)
        next(left)
        del left
        list(counting(20))


SOURCE = """{lines}
def outer_{i}(n):
    return sorted(range(3), key=lambda x: inner_{i}(x + n))
def inner_{i}(n):
    total = 0
    for _ in range(60): total += n
    return total
class Class_{i}:
    def method(self):
        return outer_{i}(1)
Class_{i}().method()
outer_{i}(2)
"""


def executing():
    i = 0
    while going("exec"):
        i += 1
        lines = "\n" * (i % 40)
        exec(compile(SOURCE.format(i=i, lines=lines), f"<made {i}>", "exec"), {})


VARIABLES = [contextvars.ContextVar(f"other{number}") for number in range(100)]


def labelled_one():
    work(50)


def labelled_two():
    work(50)


def labelling():
    """Contexts that are made, changed and dropped all the time."""
    while going("labels"):
        for number, variable in enumerate(VARIABLES):
            variable.set(object())
            with everprof.labels(who="one"):
                contextvars.copy_context().run(labelled_one)
                if number % 8 == 0:
                    with everprof.labels(who="two", number=number):
                        labelled_two()
        empty = contextvars.Context()
        for variable in VARIABLES:
            empty.run(variable.set, 1)
            empty.run(work, 10)


class Cycle:
    def __init__(self):
        self.own = self

    def __del__(self):
        work(5)


def collecting():
    while going("gc"):
        for _ in range(50):
            Cycle()
        gc.collect()


def by_c(depth):
    if depth:
        return max([depth], key=lambda d: by_c(d - 1) and 0)
    return work(50)


def plain(depth):
    return plain(depth - 1) if depth else work(500)


def recursion():
    while going("recursion"):
        by_c(20)
        plain(300)


def callbacks():
    libc = ctypes.CDLL(None)
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
    compare = kind(lambda a, b: work(3) and a[0] - b[0])
    while going("ctypes"):
        numbers = (ctypes.c_int * 20)(*range(20, 0, -1))
        libc.qsort(numbers, 20, 4, compare)


async def task(n):
    for _ in range(n):
        await asyncio.sleep(0)
        work(20)


async def tasks():
    while going("asyncio"):
        await asyncio.gather(*(task(5) for _ in range(10)))


def asynchronous():
    asyncio.run(tasks())


def interpreters():
    try:
        import _interpreters as module
    except ImportError:
        try:
            import _xxsubinterpreters as module
        except ImportError:
            return
    while going("interpreters"):
        other = module.create()
        run = getattr(module, "run_string")
        try:
            run(other, "def inside(n):\n    return sum(i for i in range(n))\ninside(20000)")
        finally:
            module.destroy(other)


def tracer(frame, event, argument):
    return tracer


def monitored(*_):
    return None


def traced():
    """As debuggers and coverage tools do it; from 3.12 on also by what the interpreter rewrites in the code."""
    while going("tracing"):
        sys.settrace(tracer)
        raised()
        list(nested(3, 5))
        sys.settrace(None)
        sys.setprofile(tracer)
        by_c(3)
        sys.setprofile(None)
        if hasattr(sys, "monitoring"):
            monitoring = sys.monitoring
            monitoring.use_tool_id(monitoring.PROFILER_ID, "storm")
            monitoring.register_callback(monitoring.PROFILER_ID, monitoring.events.LINE, monitored)
            monitoring.set_events(monitoring.PROFILER_ID, monitoring.events.LINE | monitoring.events.PY_START)
            work(20)
            monitoring.set_events(monitoring.PROFILER_ID, 0)
            monitoring.free_tool_id(monitoring.PROFILER_ID)


def raised():
    try:
        raising(5)
    except KeyError:
        pass


def cleared():
    """Frames that outlive their calls, of this thread and of the others, and are emptied."""
    while going("frames"):
        try:
            raising(10)
        except KeyError as error:
            traceback.clear_frames(error.__traceback__)
        half = nested(3, 5)
        next(half)
        frame = half.gi_frame
        if sys.version_info < (3, 13):
            frame.clear()
        half.close()
        # That looks into other interpreters as well, without their locks: with those CPython 3.12 and 3.13 crash by themselves.
        frames = [sys._getframe()] if interpreters in running else list(sys._current_frames().values())
        for frame in frames:
            while frame:
                len(frame.f_locals)
                frame = frame.f_back


def reloading():
    while going("reloads"):
        importlib.reload(colorsys)
        colorsys.rgb_to_hls(0.1, 0.2, 0.3)
        work(5)


def hop(parent):
    for _ in range(4):
        by_c(4)
        list(counting(5))
        parent.switch()
        plain(20)


def greenlets():
    """Where that package is there."""
    try:
        import greenlet
    except ImportError:
        return
    while going("greenlets"):
        parent = greenlet.getcurrent()
        several = [greenlet.greenlet(hop) for _ in range(5)]
        for _ in range(4):
            for one in several:
                one.switch(parent)
        # One is left in the middle.
        for one in several[1:]:
            one.switch(parent)


def paths():
    """The source of functions that call each other, each with the names of its callers in its own."""
    pending, source = ["path_0", "path_1", "path_2"], []
    while pending:
        name = pending.pop()
        called = [name + digit for digit in "012"] if len(name) < len("path_0000") else []
        pending += called
        source.append(f"def {name}():\n" + ("".join(f"  {one}()\n" for one in called) or "  work(20)\n"))
    return "".join(source)


def calling():
    functions = {"work": work}
    exec(compile(paths(), "<paths>", "exec"), functions)
    while going("paths"):
        for digit in "012":
            functions[f"path_{digit}"]()


def caller_of(name):
    return name[:-1] if len(name) > len("path_0") else "calling"


def waiting():
    lock = threading.Condition()
    while going("waits"):
        with lock:
            lock.wait(0.003)


class Truth:
    """Which lines which functions have, by file."""

    def __init__(self):
        self.files = {}

    def functions(self, file):
        if file not in self.files:
            self.files[file] = functions = collections.defaultdict(set)
            if file.startswith("<frozen "):
                return functions
            with open(file, "rb") as source:
                pending = [compile(source.read(), file, "exec")]
            while pending:
                code = pending.pop()
                functions[profiler.name_of(code), code.co_firstlineno] |= {0, *lines_of(code)}
                pending += [constant for constant in code.co_consts if hasattr(constant, "co_code")]
        return self.files[file]

    def has(self, frame):
        if frame.file == "<string>":
            return frame.name in ("<module>", "inside", "inside.<locals>.<genexpr>", "<genexpr>", "__create_fn__")
        made = re.fullmatch(r"<made (\d+)>", frame.file)
        if made:
            return frame.line in lines_made(int(made[1])).get(frame.name, ())
        if frame.file.startswith("<"):
            return True
        return frame.line in self.functions(frame.file).get((frame.name, frame.start), ())


def lines_of(code):
    if hasattr(code, "co_lines"):
        return {line for _, _, line in code.co_lines() if line is not None} | {code.co_firstlineno}
    import dis
    return {line for _, line in dis.findlinestarts(code)} | {code.co_firstlineno}


def lines_made(i):
    first = i % 40 + 2
    names = {
        f"outer_{i}": (0, first, first + 1),
        f"outer_{i}.<locals>.<lambda>": (0, first + 1),
        f"inner_{i}": tuple(range(first + 2, first + 6)),
        f"Class_{i}": (0, first + 6, first + 7),
        f"Class_{i}.method": (first + 7, first + 8),
        "<module>": (0, *range(1, first + 11)),
    }
    if sys.version_info < (3, 11):
        names["<lambda>"] = names.pop(f"outer_{i}.<locals>.<lambda>")
        names["method"] = names.pop(f"Class_{i}.method")
    return names


def check(samples, counts):
    truth, kinds, wrong, unnamed, frames = Truth(), collections.Counter(), [], 0, 0
    for stack, values, labels in samples:
        python = [frame for frame in stack if profiler.is_python(frame) or frame.name == "<unnamed>"]
        if not python:
            kinds["without"] += 1
            continue
        kinds["python"] += 1
        frames += len(python)
        unnamed += sum(frame.name == "<unnamed>" for frame in python)
        wrong += [frame for frame in python if frame.name != "<unnamed>" and not truth.has(frame)]
        made = {frame.file for frame in python if frame.file.startswith("<made")}
        labelled = next((frame.name for frame in python if frame.name.startswith("labelled_")), "labelled_None")
        if labelled != f"labelled_{labels.get('who')}" and (labelled != "labelled_None" or python[0].name == "work" and python[1].name != "labelling"):
            wrong.append((labels, python[:4]))
        if len(made) > 1:
            wrong.append(python)
        for frame, caller in zip(python, python[1:]):
            if frame.file == "<paths>" and frame.name != "<module>" and caller.name not in (caller_of(frame.name), "<unnamed>"):
                wrong.append((frame, caller))
        root = python[-1]
        # An interpreter begins with its importer, and looks for its encoding.
        begins = done["interpreters"] and (root.file.startswith("<frozen ") or root.name == "search_function")
        is_root = root.name == "<module>" or root.name.endswith("_bootstrap") or begins or root.name == "hop"
        cut = any(frame.name.startswith("[truncated") for frame in stack)
        kinds["cut" if cut else "whole" if is_root else "torn"] += 1
        if not is_root and not cut and kinds["torn"] < 4:
            print("torn:", python[-3:], [frame.name for frame in stack][-4:])
        if any(frame.name == "[incomplete stack]" for frame in stack):
            kinds["natively incomplete"] += 1
    print(f"{dict(done)}\n{len(samples)} stacks, {dict(kinds)}, {frames} frames, {unnamed} unnamed, {len(wrong)} wrong, "
          f"counts {counts}, {profile.samples_taken} samples")
    summary = {"samples": profile.samples_taken, "stacks": len(samples), "frames": frames, "cut": kinds["cut"],
               "torn": kinds["torn"], "unnamed": unnamed, "wrong": len(wrong), "broken": counts[2]}
    print("summary", json.dumps(summary))
    for frame in wrong[:5]:
        print("wrong:", frame, getattr(frame, "start", ""), getattr(frame, "file", ""))
    assert kinds["python"] > 100 and not wrong
    assert unnamed <= frames * 0.001
    # Of a thread that has gone on while it was looked at, the leaf alone is known.
    assert kinds["torn"] <= kinds["python"] * 0.001


works = [churn, exceptions, generators, executing, labelling, collecting, recursion, callbacks, asynchronous, interpreters, greenlets,
         waiting, calling, traced, cleared, reloading]
KINDS = sys.argv[3] if len(sys.argv) > 3 else "cpu"
only = sys.argv[4].split(",") if len(sys.argv) > 4 else []
running = [work for work in works if not only or work.__name__ in only]
with profiler.Run(1000, KINDS) as profile:
    END = time.monotonic() + SECONDS
    threads = [threading.Thread(target=work) for work in running]
    for thread in threads:
        thread.start()
    arguments = [str(number) for number in (profiler.pid(), int(signal.SIGPROF), HZ)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [profiler.python(), profiler.beside("storm_sender.py"), *arguments]
    sender = subprocess.Popen(command, env=environment)
    for thread in threads:
        thread.join()
    sender.terminate()
    sender.wait()
check(profile.samples, profile.counts)
