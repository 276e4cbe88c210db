"""Waits until the program imports a module, so that everprof need not: it may be large, or not wanted at all."""

import sys


def after(name, call):
    """Calls `call` with the module of that name: now where it is there, else when it was imported."""
    module = sys.modules.get(name)
    if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
        call(module)
        return
    _watch().wanted[name] = call


def forget(name):
    """Nobody waits for that module any more."""
    for finder in list(sys.meta_path):
        if isinstance(finder, _Watch):
            finder.wanted.pop(name, None)
            if not finder.wanted:
                sys.meta_path.remove(finder)


def _watch():
    for finder in sys.meta_path:
        if isinstance(finder, _Watch):
            return finder
    sys.meta_path.insert(0, watch := _Watch())
    return watch


class _Watch:
    """Finds what the finders behind it find, and lets the loader say when it is done."""

    def __init__(self):
        self.wanted = {}

    def find_spec(self, name, path=None, target=None):
        call = self.wanted.get(name)
        if call is None:
            return None
        finders = sys.meta_path[:]
        behind = finders[finders.index(self) + 1 :] if self in finders else finders
        for finder in behind:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if find is not None else None
            if spec is not None:
                _tell(spec, name, call)
                return spec
        return None


def _tell(spec, name, call):
    loader = spec.loader
    execute = getattr(loader, "exec_module", None)
    # What is no object of its own loads others too.
    if execute is None or isinstance(loader, type):
        return

    def exec_module(module):
        execute(module)
        if getattr(module, "__name__", None) == name:
            try:
                del loader.exec_module
            except AttributeError:
                pass
            forget(name)
            call(module)

    try:
        loader.exec_module = exec_module
    except AttributeError:
        pass
