#!/usr/bin/env bash
# fuzz.sh [TARGET…]: coverage-guided fuzzing of everything that reads bytes from outside, SECONDS_EACH=30 a target.
#
# libFuzzer, on the stable toolchain: the flags below are what cargo-fuzz passes, without a sanitizer, for there is no
# unsafe code in what is fuzzed. They change every crate, so all of it is compiled apart from the rest. What is found
# grows from run to run in .pelton/fuzz/corpus; the seeds stand in tests/fuzz/seeds. A crash is kept in
# .pelton/fuzz/crashes, and FILE=… runs one again.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
seconds=${SECONDS_EACH:-30}
crate=$PWD/tests/fuzz
state=$PWD/.pelton/fuzz
# Beside what the rest is built into, never in it.
target_dir=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/fuzz
triple=$(rustc -vV | sed -n 's/^host: //p')

all=()
for file in "$crate"/src/bin/*.rs; do all+=("$(basename "$file" .rs)"); done
targets=("$@")
((${#targets[@]})) || targets=("${all[@]}")
for target in "${targets[@]}"; do
    if [[ ! -f $crate/src/bin/$target.rs ]]; then
        printf 'there is no target %s; there are: %s\n' "$target" "${all[*]}" >&2
        exit 2
    fi
done

flags=(
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
)
# With --target, build scripts and macros are spared the flags.
CARGO_ENCODED_RUSTFLAGS=$(printf '\x1f%s' "${flags[@]}" | cut -c2-) CARGO_TARGET_DIR=$target_dir \
    cargo build --quiet --locked --release --bins --target "$triple" --manifest-path "$crate/Cargo.toml"

if [[ -n ${FILE:-} ]]; then
    exec "$target_dir/$triple/release/${targets[0]}" "$FILE"
fi

failed=0
for target in "${targets[@]}"; do
    corpus=$state/corpus/$target crashes=$state/crashes log=$state/$target.log
    mkdir -p "$corpus" "$crashes"
    if "$target_dir/$triple/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=8192 \
        -print_final_stats=1 -artifact_prefix="$crashes/$target-" "$corpus" "$crate/seeds/$target" >"$log" 2>&1; then
        runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
        edges=$(grep -o 'cov: [0-9]*' "$log" | tail -n 1)
        printf '%-12s ok: %s runs in %s s, %s edges\n' "$target" "$runs" "$seconds" "${edges#cov: }"
    else
        failed=1
        crash=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        grep -E 'panicked at|^==.*ERROR' -A 3 "$log" | head -n 12 || tail -n 12 "$log"
        printf '%-12s FAILED; run it again with: make fuzz TARGET=%s FILE=%s\n' "$target" "$target" "${crash:-?}"
    fi
done
exit "$failed"
