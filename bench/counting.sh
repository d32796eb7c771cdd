#!/usr/bin/env bash
# What counting calls, bytes and latencies costs a server: the same echoes with and without, in turns.
#
#   bench/counting.sh                      three cells, 15 rounds of 0.3 s each
#   ROUNDS=15 SECONDS_EACH=0.3 CELLS=...   how long, and which cells of bench_rpc
#
# "Without" is a copy of the tree in which counters are not written and flushes do not look at the clock.
# Prints medians for each cell: requests/s, and the server's CPU time for each of them, with and without.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
rounds=${ROUNDS:-15}
seconds=${SECONDS_EACH:-0.3}
cells=${CELLS:-16B/callback/64 16B/callback/1024 16B/connections/64}

tree=$target/uncounted/tree
rm -rf "$tree"
mkdir -p "$tree"
(cd "$root" && git ls-files -co --exclude-standard -z |
    tar --create --null --files-from=- --ignore-failed-read --file=- 2>/dev/null) | tar --extract --directory="$tree" --file=-

# Takes out a line of a file of the copy, which must be there once.
without() {
    if [ "$(grep --count "$2" "$tree/$1")" != 1 ]; then
        echo "$1 has not once: $2" >&2
        exit 1
    fi
    grep --invert-match "$2" "$tree/$1" >"$tree/$1.new"
    mv "$tree/$1.new" "$tree/$1"
}
without rpc/src/stats/cells.rs 'self\.0\.store(value, Relaxed);'
without rpc/src/reactor/event_loop.rs '^    NOW\.set(Some(Instant::now()));$'

cargo build --quiet --release --package bench --manifest-path "$root/Cargo.toml"
# The parameter that nobody looks at is no reason to stop.
CARGO_TARGET_DIR=$target/uncounted RUSTFLAGS='-A unused' \
    cargo build --quiet --release --package bench --manifest-path "$tree/Cargo.toml"

measure() {
    "$1/release/bench_rpc" --sides rpc --filter "$2" --seconds "$seconds" --rounds 1 2>/dev/null |
        sed --quiet 's/.*"requests_per_s":\([0-9.]*\).*"server_cpu_us":\([0-9.]*\).*/\1 \2/p'
}
# Of the numbers in a column.
median() {
    cut --delimiter=' ' --fields="$1" | sort --numeric-sort | sed --quiet "$(((rounds + 1) / 2))p"
}

printf '%-22s %12s %12s %7s %10s %10s %7s\n' cell with without '' 'us/req' without ''
for cell in $cells; do
    with= without=
    for _ in $(seq "$rounds"); do
        with+=$(measure "$target" "$cell")$'\n'
        without+=$(measure "$target/uncounted" "$cell")$'\n'
    done
    awk -v cell="$cell" '{ printf "%-22s %12.0f %12.0f %7.3f %10.3f %10.3f %7.3f\n", cell, $1, $2, $1/$2, $3, $4, $3/$4 }' <<<"$(
        median 1 <<<"${with%$'\n'}") $(median 1 <<<"${without%$'\n'}") $(
        median 2 <<<"${with%$'\n'}") $(median 2 <<<"${without%$'\n'}")"
done
