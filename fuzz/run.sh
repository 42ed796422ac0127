#!/usr/bin/env bash
# Fuzzes one target for some seconds: `fuzz/run.sh recipe 600`; without a target, lists them. See README.md.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

if [[ $# -eq 0 ]]; then
    sed -n 's/^    ("\([a-z0-9_]*\)", [a-z0-9_]*),$/\1/p' targets.rs
    exit
fi
target=$1
seconds=${2:-600}
work=../target/fuzz/$target # the inputs that reached something new, the log, and what failed
mkdir -p "$work/corpus"

export CARGO_TARGET_DIR=$PWD/../target
RUSTC_WRAPPER=$PWD/rustc-with-coverage cargo build --quiet --release

# The threads of genir have 2 MiB of stack, the main one has 8.
ulimit -s 2048
# Temporary files in memory: each input is one or several.
export TMPDIR=${TMPDIR:-/dev/shm} GENIR_FUZZ_TARGET=$target RAYON_NUM_THREADS=1
options=(-rss_limit_mb=1024 -timeout=10 -max_len=16384 -reload=0 -print_final_stats=1 -artifact_prefix="$work/failed-")
status=0
nice -n 19 "$CARGO_TARGET_DIR/release/fuzz" "${options[@]}" -max_total_time="$seconds" "$work/corpus" "seeds/$target" \
    >"$work/log" 2>&1 || status=$?
grep -E "^(Done|stat::|==|SUMMARY|thread|panicked)|DONE|panicked|ERROR" "$work/log" | tail -20
exit $status
