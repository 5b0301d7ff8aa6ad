#!/usr/bin/env bash
# test.sh: everything that must hold before a change lands, in the order in which it fails fastest.
#
# One line a stage, with its time; the full output of a stage only where it fails. The last stage is the test run itself,
# with real Kafka and real Cassandra: where they cannot be had, it fails. Services that were not there are stopped again.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
logs=$PWD/.pelton/test
mkdir -p "$logs"
export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}

stages=()
stage() {
    local name=$1 began=$SECONDS log
    shift
    log=$logs/${name// /-}.log
    printf '%s …\n' "$name"
    if ! "$@" >"$log" 2>&1; then
        cat "$log"
        printf '\n%s failed after %d s: %s\nThe whole output is %s\n' "$name" "$((SECONDS - began))" "$*" "$log" >&2
        exit 1
    fi
    stages+=("$(printf '%5d s  %s' "$((SECONDS - began))" "$name")")
}

own_services=()
stop_own_services() {
    if ((${#own_services[@]})); then "$here/services.sh" down "${own_services[@]}" || true; fi
}
trap stop_own_services EXIT

services_up() {
    local service
    for service in kafka cassandra; do
        if "$here/services.sh" status "$service" | grep -q 'does not answer'; then own_services+=("$service"); fi
    done
    "$here/services.sh" up
}

stage "what is needed" "$here/setup.sh"
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
stage "build" cargo build --workspace --all-targets
stage "plugins" "$target/debug/pelton" plugin build plugins
stage "plugins of the benchmark" "$target/debug/pelton" plugin build --target-dir plugins/target/wasm host/benches/plugins
stage "plugins of the tests" "$target/debug/pelton" plugin build --target-dir plugins/target/wasm tests/plugins
stage "lint" make --no-print-directory lint
stage "examples in the documentation" cargo test --doc --package pelton-sdk --package pelton-sdk-derive
stage "plugin unit tests" cargo test --quiet --manifest-path plugins/Cargo.toml
stage "python unit tests" "$here/python.sh"
stage "plugin cases" "$target/debug/pelton" plugin test plugins
stage "hostile guests" "$target/debug/hostile" --quick
stage "fuzzing" "$here/fuzz.sh"
# Every kind of fault once, with services of its own: a quarter of an hour finds more, `make chaos MINUTES=15`.
stage "chaos" "$target/debug/chaos" --seed 1 --seconds 40
stage "services" services_up
# A hundred reloads under load; `make reload-test` makes a thousand, optimised.
stage "reloads" "$target/debug/reload" --reloads 100 --records 100000
# Not optimised: proves that all of it runs and that every record arrives, its figures mean nothing.
stage "benchmark" cargo bench --quiet --workspace --profile dev --bench ratios -- --short

printf 'tests …\n'
began=$SECONDS
outcome=0
cargo nextest run --workspace --no-fail-fast ${CI:+--profile ci} || outcome=$?
stages+=("$(printf '%5d s  tests' "$((SECONDS - began))")")
printf '%s\n' "${stages[@]}"
exit "$outcome"
