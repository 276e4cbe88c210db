"""What the scripts beside it need of the profiler: start with Python's frames, stop, and the samples that came of it."""

import glob
import os
import shutil
import tempfile
import time

import pprof

import everprof


class Run:
    """`with Run(rate) as run: …`, and then `run.samples`."""

    def __init__(self, rate, kinds="cpu"):
        self.rate, self.kinds = rate, kinds

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="everprof-")
        everprof.start(dir=self.folder, rate_hz=self.rate, kinds=self.kinds, period_s=600)
        off = everprof.stats()["frames_off"]
        assert off is None, off
        return self

    def __exit__(self, *_):
        sets = self.sets()
        stats = everprof.stats()
        try:
            everprof.stop()
        except everprof.UnavailableError:
            # It waits for two seconds; a build for debugging takes longer to read the interpreter's symbols.
            pass
        for _ in range(600):
            if self.sets() > sets:
                break
            time.sleep(0.1)
        self.samples = pprof.profiles(self.folder, self.kinds.split(",")[0])
        self.counts = [stats[name] for name in ("frames_unnamed", "frames_beginning", "frames_broken")]
        self.samples_taken = stats["samples"]
        shutil.rmtree(self.folder)

    def sets(self):
        """How many sets of profiles are written: each ends with a file about it."""
        return len(glob.glob(os.path.join(self.folder, "**", "*.json"), recursive=True))


def name_of(code):
    """A function's name as everprof writes it."""
    return getattr(code, "co_qualname", code.co_name)


def is_python(frame):
    """Whether a frame is of Python: by its file, which these scripts choose."""
    return frame.file.endswith(".py") or frame.file.startswith("<")


def short(path):
    return os.path.basename(path)


def pid():
    return os.getpid()


def python():
    """An interpreter for helpers."""
    return os.environ.get("TEST_PYTHON", "python3")


def beside(name):
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
