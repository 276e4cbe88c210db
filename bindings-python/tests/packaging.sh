#!/usr/bin/env bash
# What strangers get: the package installed from the checkout, from its folder and from the sdist, each in an environment of its own
# and outside of the checkout, and used there; what the wheel needs of the C library. Built for development, of what `make test-python`
# has built already; RELEASE=1 builds the wheel as it is delivered (with zig's linker, for old C libraries), and looks at that, too.
. "$(dirname "$0")/../../.ci/lib.sh"
root=$PWD target=${CARGO_TARGET_DIR:-$PWD/target}
out=$target/python-package
rm -rf "$out/dist" && mkdir -p "$out/dist"
export CARGO_TARGET_DIR=$target

python=
for version in ${PYTHONS:-3.12 3.13 3.11 3.10 3.9 3.14}; do
    for one in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
        [ -n "$python" ] || ! "$one" -c 'import venv, ensurepip' 2>/dev/null || python=$one
    done
done
[ -n "$python" ] || skip "the package as strangers get it" "there is no Python from 3.9 on that can make a venv"
tools=$out/tools
[ -x "$tools/bin/twine" ] || { rm -rf "$tools" && "$python" -m venv "$tools" && retry "$tools/bin/pip" install -q -U pip 'maturin>=1.9,<2' twine auditwheel; }

# Installs what is named into a new environment, and uses it where nothing of the checkout can be found.
used() {
    step "pip install $1"
    local room
    room=$(mktemp -d) && "$python" -m venv "$room/venv"
    MATURIN_PEP517_ARGS="--profile dev" retry "$room/venv/bin/pip" install -q --disable-pip-version-check "$2"
    (cd "$room" && PATH=$room/venv/bin:/usr/bin:/bin && unset PYTHONPATH && python "$root/bindings-python/tests/packaged.py")
    rm -rf "$room"
}
used "." "$root"
used "./bindings-python" "$root/bindings-python"

step "sdist"
"$tools/bin/maturin" sdist -m bindings-python/Cargo.toml -o "$out/dist" >"$out/sdist.log" 2>&1 || { cat "$out/sdist.log" >&2; exit 1; }
sdist=$(echo "$out"/dist/everprof-*.tar.gz)
files=$(tar tzf "$sdist")
for needed in Cargo.lock LICENSE-MIT LICENSE-APACHE README.md core/Cargo.toml core/probe/Cargo.toml python/everprof/__init__.py; do
    grep -q "^everprof-[^/]*/$needed$" <<<"$files" || { echo "the sdist lacks $needed" >&2; exit 1; }
done
"$tools/bin/twine" check --strict "$sdist"
used "$(basename "$sdist")" "$sdist"

step "wheel"
if [ -n "${RELEASE:-}" ]; then
    bindings-python/wheel.sh "$out/dist"
else
    "$tools/bin/maturin" build -q -m bindings-python/Cargo.toml -o "$out/dist"
fi
wheel=$(echo "$out"/dist/everprof-*.whl)
ls -l "$wheel"
"$tools/bin/twine" check --strict "$wheel"
"$python" bindings-python/tests/needed.py "$wheel"
if [ -n "${RELEASE:-}" ]; then
    # What it is called is what it can do, by somebody else's judgement.
    told=$("$tools/bin/auditwheel" show "$wheel") && echo "$told"
    [[ $(basename "$wheel") == *manylinux_2_17_* ]] && grep -q '"manylinux_2_17_' <<<"$told"
    [ "$(stat -c %s "$wheel")" -le $((4 << 20)) ] || { echo "the wheel has more than 4 MiB" >&2; exit 1; }
    used "$(basename "$wheel")" "$wheel"
fi
