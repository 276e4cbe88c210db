#!/usr/bin/env bash
# Builds the tests for aarch64 and runs them under qemu-user.
#
# The toolchain is Debian's rustc-web (with its aarch64 standard library), the cross gcc and qemu-user. They are
# downloaded with apt's own checks of signatures and unpacked into target/aarch64/, so that no root is needed and
# nothing on the machine changes. A second version of Rust gets tested on the way.
. "$(dirname "$0")/lib.sh"

# Files of tests that are not run here. In most of them nothing depends on the machine, and emulation takes minutes.
elsewhere=(
    # Forks, looks, turns and files, by processes of their own.
    endpoints resting watched
    formats generated layers vectors flamegraph
    store           # files and processes; starts itself again, which needs the emulator in between
    symbolize_files # reads files that the machine's own compiler and binutils write
    symbolize_split # the same
    symbolize_hostile # the same
    symbolize_stripped # the same
    life            # qemu-user 7.2 aborts in a child that starts threads after a fork (assertion in plugins/core.c)
    surroundings    # the kernel's limits and namespaces, of which an emulator knows its own
    storm           # the storms are the kernel's signals, which an emulator delivers in its own way
    serve           # the server of a process whose threads and signals an emulator knows in its own way
    mount           # needs a feature, and nothing in it depends on the machine
    hostile         # as truth
    wall            # the kernel's account of threads, of which an emulator shows its own
    wall_signal     # the same
    wall_truth      # the same
    recording       # as truth and life
    threads         # as wall
    tasks           # as truth, and the verdict needs the kernel's account of threads
    labels_awaits   # as life
    accounts        # one of its children, as life; and samples of the machine's own pace, as truth
    delivery        # one of its children, as life
    heap            # as truth
    trace           # as truth and heap
    lock            # the same
    lock_truth      # the same
    lock_hostile    # the kernel's signals and forks, as storm and life
    lock_forms      # programs that the machine's own compilers make
    malloc          # the same; the hooks themselves: probe's test malloc
    allocator       # the same
    preload         # programs of this machine
    spool           # its processes are killed and start others, as life
    fleet           # one of its children, as life
    clocks          # as truth
    trace           # as truth; records of a thread are also read from another process, which the emulator is not
    google          # a server, a program and its recordings, as recording
    truth           # its totals hold for a process in which everprof itself is cheap; emulated, it is not
)

# Tests that qemu-user cannot run, by name, each with its reason.
left_out=(
    "finds_this_process (qemu-user 7.2 gives a process no vDSO)"
    "functions_of_the_vdso (the same)"
    "both_ways_read_what_is_there (qemu-user has no process_vm_readv; the way by /proc/self/mem is taken everywhere)"
    "a_thread_that_waits (qemu-user shows the system calls and the registers of the emulator itself)"
    "together_they_are_seen_as_each_alone (the same)"
    "the_last_word_is_an_askers_until_the_answer (qemu-user 7.2 knows no TCP_INFO)"
    "a_library_in_the_place_of_another_is_not_walked_as_that_one (qemu-user maps no library where one was before)"
)

room=$PWD/target/aarch64
root=$room/root
cc=$room/bin/aarch64-linux-gnu-gcc

unpack() {
    has apt-get && has dpkg || skip "the aarch64 tests" "their toolchain comes as Debian packages: no apt-get here"
    [ "$(dpkg --print-architecture)" = amd64 ] || skip "the aarch64 tests" "their toolchain runs on x86_64"
    rm -rf "$room"
    mkdir -p "$room"/apt/{lists,archives}/partial "$room/apt/debs" "$root"
    : >"$room/apt/status"
    local options=(-qq -o Dir::State="$room/apt" -o Dir::State::status="$room/apt/status" -o Dir::Cache="$room/apt"
        -o APT::Architecture=amd64 -o APT::Architectures::=amd64 -o APT::Architectures::=arm64 -o Debug::NoLocking=1 -o APT::Sandbox::User=root)
    retry apt-get "${options[@]}" update || skip "the aarch64 tests" "Debian's package lists could not be read"
    newest() { apt-cache "${options[@]:1}" depends --no-recommends "$1" | sed -n "s/^ *Depends: \($2\).*/\1/p" | head -1; }
    local std llvm
    std=$(newest libstd-rust-web-dev 'libstd-rust-web-[0-9.]*')
    [ -n "$std" ] || skip "the aarch64 tests" "this release of Debian has no package rustc-web"
    llvm=$(newest "$std" 'libllvm[0-9]*')
    cd "$room/apt/debs"
    retry apt-get "${options[@]}" download rustc-web "$std" "$llvm" libstd-rust-web-dev:{amd64,arm64} \
        {gcc,cpp}-12-aarch64-linux-gnu binutils-aarch64-linux-gnu libc6{,-dev}-arm64-cross \
        linux-libc-dev-arm64-cross libgcc-s1-arm64-cross libgcc-12-dev-arm64-cross qemu-user liburing2 libcapstone4
    cd "$OLDPWD"
    local package
    for package in "$room"/apt/debs/*.deb; do dpkg -x "$package" "$root"; done
    rm -rf "$room/apt"
    # The compiler driver looks for its parts in /usr: a sysroot moves them into the folder.
    mkdir -p "$room/bin"
    cat >"$cc" <<CC
#!/bin/sh
exec $root/usr/bin/aarch64-linux-gnu-gcc-12 --sysroot=$root -B$root/usr/bin/aarch64-linux-gnu- "\$@"
CC
    chmod +x "$cc"
}

step "aarch64"
[ -x "$cc" ] || unpack

# Tests that compile C look for the cross compiler by its usual name.
export PATH=$room/bin:$PATH
export LD_LIBRARY_PATH=$root/usr/lib/x86_64-linux-gnu RUSTC=$root/usr/bin/rustc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$cc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="$root/usr/bin/qemu-aarch64 -L $root/usr/aarch64-linux-gnu"
export EVERPROF_TEST_RUNNER=$CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER
export CC_aarch64_unknown_linux_gnu=$cc AR_aarch64_unknown_linux_gnu=$root/usr/bin/aarch64-linux-gnu-ar
# A little optimised: emulated debug builds are too slow for the profiler's own deadlines.
export CARGO_TARGET_DIR=$room/build CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_TEST_OPT_LEVEL=1
"$RUSTC" --version

chosen=()
for file in core/tests/*.rs core/tests/*/main.rs; do
    name=${file#core/tests/} name=${name%/main.rs} name=${name%.rs}
    [[ " ${elsewhere[*]} " == *" $name "* ]] || chosen+=(--test "$name")
done
skips=()
for name in "${left_out[@]%% *}"; do skips+=(--skip "$name"); done
printf 'left out under qemu-user: %s\n' "${left_out[@]}"
cross() { .ci/cargo-test.sh --target aarch64-unknown-linux-gnu "$@" -- "${skips[@]}"; }
cross -p everprof-probe --lib --tests
cross -p everprof --lib "${chosen[@]}"
