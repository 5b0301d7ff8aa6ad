#!/usr/bin/env bash
# bench.sh [ARGUMENTS]: builds what is measured, optimised, and measures it; host/benches/ratios/main.rs says how.
#
# Kafka and Cassandra must answer: `make services`. Figures mean something where nothing else runs; ratios nearly always.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
"$here/setup.sh" >&2
target=$(cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
cargo bench --quiet --package pelton --bench ratios --no-run >&2
# One target directory for all guests: their standard library is built once.
guests=${PELTON_GUEST_TARGET_DIR:-plugins/target/wasm}
for plugins in plugins/identity host/benches/plugins; do
    "$target/release/pelton" plugin build --target-dir "$guests" "$plugins" >&2
done
exec cargo bench --quiet --package pelton --bench ratios -- "$@"
