"""Profiles of a block of code, or of a moment, and the forms that they can be had in."""

import os

from . import _everprof, _life, _log

# The forms that a file can have, by the end of its name.
_FORMS = {
    ".html": lambda profile: profile.html.encode(),
    ".speedscope.json": lambda profile: profile.speedscope.encode(),
    ".json": lambda profile: profile.speedscope.encode(),
    ".collapsed": lambda profile: profile.collapsed.encode(),
    ".folded": lambda profile: profile.collapsed.encode(),
    ".txt": lambda profile: profile.top().encode(),
    ".pb.gz": lambda profile: profile.pprof,
    ".pprof": lambda profile: profile.pprof,
}


class Profile:
    """A profile, from `profile` or `snapshot`. In a notebook it shows its flame graph."""

    def __init__(self, core=None):
        self._core = core

    @property
    def html(self):
        """One page with the flame graph, the top functions, their callers and callees; it needs no network."""
        return self._done().html("")

    @property
    def pprof(self):
        """The gzip-compressed pprof file, for ``go tool pprof`` and all that reads such files."""
        return self._done().pprof()

    @property
    def collapsed(self):
        """Lines of ``root;caller;leaf value``."""
        return self._done().collapsed()

    @property
    def speedscope(self):
        """The JSON file that speedscope.app reads."""
        return self._done().speedscope()

    @property
    def totals(self):
        """The sum over all samples of each value, such as ``samples`` and ``cpu`` (nanoseconds), as a dictionary."""
        return dict(self._done().totals())

    def by_label(self, key):
        """The sum of what is shown first, such as nanoseconds of CPU time, for each value of a label, as a dictionary; samples that
        do not have it are under the empty text.
        """
        return self._done().by_label(key)

    def top(self, rows=15):
        """The functions that cost the most, as a table of text."""
        return self._done().top(rows)

    def save(self, path):
        """Writes it to a file, in the form that the end of its name says: ``.html``, ``.pb.gz``, ``.collapsed``,
        ``.speedscope.json``, or ``.txt`` for the table of `top`.
        """
        name = os.fsdecode(path)
        form = next((form for end, form in _FORMS.items() if name.endswith(end)), None)
        if form is None:
            raise ValueError(f"what is {os.path.basename(name)!r} to be? give a name that ends in one of {', '.join(_FORMS)}")
        content = form(self)
        with open(path, "wb") as file:
            file.write(content)

    def _done(self):
        if self._core is None:
            raise _everprof.UnavailableError("the profile is not there before its block has ended")
        return self._core

    def __repr__(self):
        return "<everprof.Profile of a block that has not ended>" if self._core is None else f"<everprof.Profile {self.totals}>"

    def __str__(self):
        return repr(self) if self._core is None else self.top()

    def _repr_html_(self):
        if self._core is None:
            return None
        from html import escape

        # A page of its own, which neither sees nor changes the notebook's.
        return f'<iframe srcdoc="{escape(self.html)}" sandbox="allow-scripts" width="100%" height="600" frameborder="0"></iframe>'


class profile(Profile):
    """The profile of a block, of all of the process's threads::

        with everprof.profile() as block:
            work()
        block.save("work.html")

    `kind` is one of the kinds of the option ``kinds``. Where a profiler runs, the block is recorded beside its profiles. Where none
    does, one runs for the block alone, with these options, and sends nothing anywhere.

    Raises `AlreadyRunningError` for options where a profiler runs that has its own, `UnsupportedError` for a kind that cannot
    be had here.
    """

    def __init__(self, kind="cpu", **options):
        super().__init__()
        self._kind, self._options = kind, options
        self._recording, self._is_own = None, False

    def __enter__(self):
        if self._recording is not None:
            raise RuntimeError("this everprof.profile() is in use: make one for each block")
        if self._options or not _life.is_running():
            _life.start({"push": "off", **self._options})
            self._is_own = True
        try:
            self._recording = _everprof.record(self._kind)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception):
        recording, self._recording = self._recording, None
        try:
            self._core = recording.finish()
        finally:
            self._end()
            _log.deliver()

    async def __aenter__(self):
        return self.__enter__()

    async def __aexit__(self, *exception):
        self.__exit__()

    def _end(self):
        if self._is_own:
            self._is_own = False
            _life.stop()


def snapshot(kind="threads"):
    """What there is now of a kind that is of a moment, as a `Profile`: the stack of each thread (``threads``), or what lives and
    what was allocated or waited for since it is followed (``heap``, ``alloc``, ``lock``, ``mutex``, ``block``).

    Raises `UnsupportedError` where the kind is not followed, `UnavailableError` where no profiler runs.
    """
    return Profile(_everprof.snapshot(kind))
