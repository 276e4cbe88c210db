#!/usr/bin/env bash
# Builds the fuzz targets with coverage for libFuzzer, on a stable compiler, and runs each for FUZZ_SECONDS (60).
# Inputs that were found to be interesting stay in target/fuzz/corpus; an input that fails is printed and kept beside.
. "$(dirname "$0")/lib.sh"
has c++ || skip "fuzzing" "libFuzzer is built from source and needs a C++ compiler"
step "fuzz"
passes="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
for what in inline-8bit-counters pc-table trace-compares; do passes+=" -Cllvm-args=-sanitizer-coverage-$what"; done
export RUSTFLAGS="--cfg fuzzing $passes -Ccodegen-units=1" CARGO_TARGET_DIR=$PWD/target/fuzz/build
host=$(rustc -vV | sed -n 's/^host: //p')
# With a target named, the flags stay away from build scripts and macros.
cargo build --release --target "$host" --manifest-path core/fuzz/Cargo.toml

# Where the fuzzer begins: real inputs of this machine.
seeds=target/fuzz/seeds
mkdir -p $seeds/{options,maps,elf,eh_frame,split,request}
printf 'GET /debug/pprof/goroutine?seconds=1&debug=1 HTTP/1.1\r\nHost: localhost:6060\r\nAuthorization: Basic eDp5\r\n\r\n' >$seeds/request/get
printf 'POST /debug/pprof/symbol HTTP/1.1\r\nHost: [::1]\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n0x1+0x2' >$seeds/request/post
cp /proc/self/maps $seeds/maps/
printf 'rate_hz=250,service=shop,tags="a=b,c=d"' >$seeds/options/text
printf '# a file\nrate_hz = 250\nservice = "shop"\n' >$seeds/options/lines
for debug in "" -g "-g -gz" -gdwarf-3 "-gdwarf-5 -gdwarf64" "-gdwarf-4 -gz=zlib-gnu" -fdebug-types-section; do
    echo 'int twice(int x) { return x + x; } int thrice(int x) { return twice(x) + x; }' |
        cc -shared -fPIC -O1 $debug -x c - -o "$seeds/elf/library${debug// /}.so"
done
# The program's length in four bytes, the program, its package.
if has dwp; then
    (
        cd $seeds/split && rm -f ./*.dwo
        echo 'static inline int twice(int x) { return x + x; } int thrice(int x) { return twice(x) + x; }' >code.c
        cc -shared -fPIC -O1 -gdwarf-4 -gsplit-dwarf -o code.so code.c && dwp -o code.dwp ./*.dwo
        size=$(stat -c %s code.so)
        for shift in 0 8 16 24; do printf "\\x$(printf %02x $((size >> shift & 255)))"; done
        cat code.so code.dwp
        rm -f code.c code.so code.dwp ./*.dwo
    ) >"$seeds/split.new" && mv "$seeds/split.new" $seeds/split/package
fi
# The header's length in two bytes, the header up to where the section begins, the section.
sections=$(readelf -SW $seeds/elf/library.so | sed 's/^ *\[ *[0-9]*\] *//')
at() { echo $((16#$(awk -v name="$1" -v field="$2" '$1 == name { print $field }' <<<"$sections"))); }
header=$(at .eh_frame_hdr 4) frames=$(at .eh_frame 4) size=$(at .eh_frame 5)
{
    printf "\\x$(printf %02x $(((frames - header) % 256)))\\x$(printf %02x $(((frames - header) / 256)))"
    tail -c +$((header + 1)) $seeds/elf/library.so | head -c $((frames - header + size))
} >$seeds/eh_frame/library

for source in core/fuzz/targets/*.rs; do
    target=$(basename "$source" .rs)
    [[ " ${FUZZ_TARGETS:-$target} " == *" $target "* ]] || continue
    step "fuzz $target"
    mkdir -p "target/fuzz/corpus/$target" "target/fuzz/found/$target" "$seeds/$target"
    "$CARGO_TARGET_DIR/$host/release/$target" "target/fuzz/corpus/$target" "$seeds/$target" \
        -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -verbosity=0 \
        -print_final_stats=1 -artifact_prefix="target/fuzz/found/$target/"
done
