"""A reader of pprof files that shares nothing with everprof: protobuf's wire format, and the few fields that tests ask for."""

import gzip
from pathlib import Path


class Pprof:
    """`samples` has the stack (function names, leaf first), the same as `places` (with files and lines), the values by type, and the
    labels of each; `tags` the comments."""

    def __init__(self, content):
        fields = _fields(gzip.decompress(content))
        self.strings = [value.decode() for number, value in fields if number == 6]
        types = [self._pair(value) for number, value in fields if number == 1]
        functions, files, places = {}, {}, {}
        for number, value in fields:
            if number == 5:
                function = dict(_fields(value))
                functions[function[1]] = self.strings[function.get(2, 0)]
                files[function[1]] = self.strings[function.get(4, 0)]
        locations = {}
        for number, value in fields:
            if number == 4:
                parts = _fields(value)
                lines = [dict(_fields(line)) for field, line in parts if field == 4]
                locations[dict(parts)[1]] = [functions.get(line.get(1), "?") for line in lines] or ["?"]
                places[dict(parts)[1]] = [(functions.get(line.get(1), "?"), files.get(line.get(1), ""), line.get(2, 0)) for line in lines]
        self.samples = [self._sample(value, types, locations, places) for number, value in fields if number == 2]
        comments = [self.strings[at] for number, value in fields if number == 13 for at in _numbers(value)]
        self.tags = dict(comment.split("=", 1) for comment in comments if "=" in comment)

    def total(self, name, keep=lambda sample: True):
        return sum(sample["values"][name] for sample in self.samples if keep(sample))

    def has(self, function):
        return any(function in frame for sample in self.samples for frame in sample["stack"])

    def _pair(self, value):
        return self.strings[dict(_fields(value)).get(1, 0)]

    def _sample(self, value, types, locations, places):
        stack, at, values, labels = [], [], [], {}
        for number, part in _fields(value):
            if number == 1:
                stack += [name for location in _numbers(part) for name in locations[location]]
                at += [place for location in _numbers(part) for place in places[location]]
            elif number == 2:
                values += _numbers(part)
            elif number == 3:
                label = dict(_fields(part))
                labels[self.strings[label[1]]] = self.strings[label.get(2, 0)]
        return {"stack": stack, "places": at, "values": dict(zip(types, values)), "labels": labels}


def read(folder, kind="cpu"):
    """All profiles of a kind below a folder, the oldest first."""
    paths = sorted(Path(folder).rglob(f"*.{kind}.pb.gz"), key=lambda path: path.stat().st_mtime_ns)
    return [Pprof(path.read_bytes()) for path in paths]


def _fields(content):
    """Number and value of each field: an integer, or bytes."""
    fields, at = [], 0
    while at < len(content):
        key, at = _varint(content, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(content, at)
        elif wire == 2:
            length, at = _varint(content, at)
            value, at = content[at : at + length], at + length
        else:
            value, at = content[at : at + (8 if wire == 1 else 4)], at + (8 if wire == 1 else 4)
        fields.append((number, value))
    return fields


def _numbers(value):
    """One integer, or a packed list of them."""
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


def _varint(content, at):
    value = shift = 0
    while True:
        byte = content[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
