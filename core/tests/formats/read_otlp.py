"""Reads a request of OTLP profiles with OpenTelemetry's own messages, checks what they demand, and prints it.

python read_otlp.py FOLDER FILE
"""

import sys

from opentelemetry.proto.collector.profiles.v1development.profiles_service_pb2 import ExportProfilesServiceRequest


def main() -> None:
    with open(sys.argv[2], "rb") as file:
        raw = file.read()
    request = ExportProfilesServiceRequest.FromString(raw)
    again = ExportProfilesServiceRequest.FromString(raw)
    again.DiscardUnknownFields()
    assert again.SerializeToString() == request.SerializeToString(), "there are fields that OTLP does not have"
    of = request.dictionary
    text = of.string_table
    for table in (of.mapping_table, of.location_table, of.function_table, of.link_table, of.attribute_table, of.stack_table):
        assert table[0].ByteSize() == 0, "the first row must be the zero value"
        rows = [row.SerializeToString(deterministic=True) for row in table]
        assert len(set(rows)) == len(rows), "a row stands twice"
    assert text[0] == "" and len(set(text)) == len(text)

    def any_text(value) -> str:
        kind = value.WhichOneof("value")
        assert kind is not None, "a value is missing"
        if kind == "array_value":
            return "[" + ", ".join(any_text(one) for one in value.array_value.values) + "]"
        of_kind = getattr(value, kind)
        return str(of_kind).lower() if kind == "bool_value" else str(of_kind)

    def attributes(indices) -> str:
        rows = [of.attribute_table[index] for index in indices]
        assert len({row.key_strindex for row in rows}) == len(rows), "a key stands twice"
        return ", ".join(
            f"{text[row.key_strindex]}={any_text(row.value)} {text[row.unit_strindex]}".strip() for row in rows
        )

    def kind_text(kind) -> str:
        return f"{text[kind.type_strindex]}/{text[kind.unit_strindex]}"

    for resource in request.resource_profiles:
        assert resource.HasField("resource")
        for pair in sorted(resource.resource.attributes, key=lambda pair: pair.key):
            print("resource", f"{pair.key}={any_text(pair.value)}")
        for scope in resource.scope_profiles:
            print("scope", scope.scope.name)
            for profile in scope.profiles:
                assert len(profile.profile_id) == 16
                print("profile", kind_text(profile.sample_type), profile.period, kind_text(profile.period_type))
                print("time", profile.time_unix_nano, profile.duration_nano)
                print("attributes", attributes(profile.attribute_indices))
                for sample in profile.samples:
                    assert len(sample.values) == 1 and not sample.timestamps_unix_nano
                    frames = []
                    for index in of.stack_table[sample.stack_index].location_indices:
                        location = of.location_table[index]
                        mapping = of.mapping_table[location.mapping_index]
                        lines = []
                        for line in location.lines:
                            function = of.function_table[line.function_index]
                            lines.append(f"{text[function.name_strindex]!r}:{line.line}")
                        kind = attributes(location.attribute_indices)
                        frames.append(f"{' < '.join(lines)} in {text[mapping.filename_strindex]!r} {kind}".strip())
                    link = of.link_table[sample.link_index]
                    linked = f"{link.trace_id.hex()} {link.span_id.hex()}".strip()
                    print("sample", sample.values[0], "|", " << ".join(frames), "|", attributes(sample.attribute_indices), "|", linked)
    for mapping in of.mapping_table[1:]:
        print("mapping", text[mapping.filename_strindex], attributes(mapping.attribute_indices))


main()
