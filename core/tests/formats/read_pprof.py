"""Reads a pprof file with Python's protobuf and the real profile.proto, checks what the format demands, and prints it.

python read_pprof.py FOLDER_OF_PROFILE_PB2 FILE
"""

import gzip
import sys

sys.path.insert(0, sys.argv[1])
import profile_pb2  # noqa: E402  (made by tools.sh)


def main() -> None:
    with gzip.open(sys.argv[2]) as file:
        profile = profile_pb2.Profile.FromString(file.read())
    text = profile.string_table
    assert text[0] == "", "the first string must be empty"
    assert len(set(text)) == len(text), "a string stands twice in the table"
    for table in (profile.mapping, profile.location, profile.function):
        assert [entry.id for entry in table] == list(range(1, len(table) + 1)), "ids must be 1..N in order"
    # Whatever profile.proto does not know would be lost on its way through Python.
    again = profile_pb2.Profile.FromString(profile.SerializeToString())
    again.DiscardUnknownFields()
    assert again == profile, "there are fields that profile.proto does not have"

    types = [f"{text[kind.type]}/{text[kind.unit]}" for kind in profile.sample_type]
    print("types", *types, "default", text[profile.default_sample_type])
    print("period", profile.period, f"{text[profile.period_type.type]}/{text[profile.period_type.unit]}")
    print("time", profile.time_nanos, profile.duration_nanos)
    for comment in profile.comment:
        print("comment", text[comment])
    for mapping in profile.mapping:
        print("mapping", text[mapping.filename], text[mapping.build_id], mapping.has_functions, mapping.has_inline_frames)
    for sample in profile.sample:
        assert len(sample.value) == len(types), "one value for each sample type"
        frames = []
        for location_id in sample.location_id:
            for line in profile.location[location_id - 1].line:
                function = profile.function[line.function_id - 1]
                frames.append(f"{text[function.name]!r}@{text[function.filename]}:{line.line}")
        labels = [
            f"{text[label.key]}={text[label.str] if label.str else f'{label.num} {text[label.num_unit]}'}"
            for label in sample.label
        ]
        print("sample", *sample.value, "|", " < ".join(frames), "|", ", ".join(labels))


main()
