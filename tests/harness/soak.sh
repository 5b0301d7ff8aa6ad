#!/usr/bin/env bash
# soak.sh HOURS: all tests again and again, each time with other random cases and more of them, until the time is over or
# something fails. The output of a failed round is kept in .pelton/soak.
set -euo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
hours=${1:-1}
logs=$PWD/.pelton/soak
mkdir -p "$logs"
export PROPTEST_CASES=${PROPTEST_CASES:-4096}

"$here/setup.sh"
"$here/services.sh" up
round=0
while ((SECONDS < hours * 3600)); do
    round=$((round + 1))
    log=$logs/round-$round.log
    if ! cargo nextest run --workspace --no-fail-fast --profile soak >"$log" 2>&1; then
        tail -n 60 "$log"
        printf 'round %d failed; the whole output is %s\n' "$round" "$log" >&2
        exit 1
    fi
    tail -n 3 "$log"
    rm -f "$log"
    printf 'round %d passed, %d min\n' "$round" "$((SECONDS / 60))"
done
