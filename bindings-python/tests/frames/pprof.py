"""Reads a profile of pprof's format: a decoder of its own, so that the tests do not believe what they test."""

import glob
import gzip
import os


def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _fields(data):
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 2:
            size, at = _varint(data, at)
            value, at = data[at:at + size], at + size
        elif kind == 1:
            value, at = data[at:at + 8], at + 8
        else:
            value, at = data[at:at + 4], at + 4
        yield number, value


def _numbers(value):
    if isinstance(value, int):
        return [value]
    numbers, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        numbers.append(number)
    return numbers


class Frame:
    """A function and a line in it."""

    def __init__(self, name, file, line, start):
        self.name, self.file, self.line, self.start = name, file, line, start

    def __repr__(self):
        return f"{self.name} ({os.path.basename(self.file)}:{self.line})"


class Profile:
    """Samples: stacks of frames, innermost first, with their values."""

    def __init__(self, path):
        strings, functions, locations, samples = [], {}, {}, []
        with gzip.open(path) as file:
            data = file.read()
        for number, value in _fields(data):
            if number == 2:
                samples.append(value)
            elif number == 4:
                lines = []
                for key, part in _fields(value):
                    if key == 1:
                        identity = part
                    elif key == 4:
                        line = dict(_fields(part))
                        lines.append((line.get(1, 0), line.get(2, 0)))
                locations[identity] = lines
            elif number == 5:
                function = dict(_fields(value))
                functions[function[1]] = function
            elif number == 6:
                strings.append(value.decode())

        def frame(function, line):
            of = functions.get(function, {})
            name, file = strings[of.get(2, 0)], strings[of.get(4, 0)]
            return Frame(name, file, line, of.get(5, 0))

        self.samples = []
        for sample in samples:
            stack, values, labels = [], [], {}
            for key, part in _fields(sample):
                if key == 1:
                    for location in _numbers(part):
                        lines = locations.get(location, []) or [(0, 0)]
                        stack += [frame(*line) for line in lines]
                elif key == 2:
                    values += _numbers(part)
                elif key == 3:
                    label = dict(_fields(part))
                    labels[strings[label[1]]] = strings[label.get(2, 0)] or label.get(3, 0)
            self.samples.append((stack, values, labels))


def profiles(folder, kind="cpu"):
    """All samples of a kind in a directory of profiles."""
    samples = []
    for path in sorted(glob.glob(os.path.join(folder, "**", f"*.{kind}.pb.gz"), recursive=True)):
        samples += Profile(path).samples
    return samples
