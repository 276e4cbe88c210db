#!/usr/bin/env bash
# Installs the other tools that read our files, from the package registries into target/formats: Python's protobuf with the real
# profile.proto (which the Go module of pprof ships), OpenTelemetry's messages, and a JSON schema validator with speedscope's own schema.
# What cannot be installed is said loudly; the tests that want it then skip, and fail in CI.
set -euo pipefail
cd "$(dirname "$0")/../../.."
folder=${CARGO_TARGET_DIR:-target}/formats
pprof=v0.0.0-20261016150608-1facf8f91b50
speedscope=1.25.0
packages=(protobuf==7.36.2 grpcio-tools==1.85.1 jsonschema==4.26.0 opentelemetry-proto==1.45.2)
stamp="$pprof $speedscope ${packages[*]}"
[ "$(cat "$folder/stamp" 2>/dev/null || true)" != "$stamp" ] || exit 0

missing() {
    printf '\n!!! %s: the tests that read our files with it will be SKIPPED\n\n' "$1" >&2
    [ "${CI:-}" != true ] || exit 1
    exit 0
}
command -v python3 >/dev/null || missing "python3 is not here"
command -v go >/dev/null || missing "go is not here"
command -v npm >/dev/null || missing "npm is not here"

rm -rf "$folder"
mkdir -p "$folder"
python3 -m venv "$folder/venv" || missing "python3 has no venv (Debian: apt-get install python3-venv)"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "${packages[@]}" || missing "pip could not install ${packages[*]}"
# Outside of any module, so that nothing but this one is asked for.
module=$(cd "$folder" && GOFLAGS=-mod=mod GOTOOLCHAIN=local go mod download -json "github.com/google/pprof@$pprof" |
    sed -n 's/^\t"Dir": "\(.*\)",$/\1/p') || missing "the Go proxy did not give github.com/google/pprof"
[ -f "$module/proto/profile.proto" ] || missing "profile.proto is not in $module"
install -m 644 "$module/proto/profile.proto" "$folder/profile.proto"
"$folder/venv/bin/python" -m grpc_tools.protoc -I "$folder" --python_out="$folder" "$folder/profile.proto"
(cd "$folder" && npm pack --silent "speedscope@$speedscope" >/dev/null) || missing "npm could not get speedscope"
tar -xzf "$folder/speedscope-$speedscope.tgz" -C "$folder" package/dist/release/file-format-schema.json
mv "$folder/package/dist/release/file-format-schema.json" "$folder/speedscope.schema.json"
rm -rf "$folder/package" "$folder/speedscope-$speedscope.tgz"
echo "$stamp" >"$folder/stamp"
