#!/usr/bin/env bash
# Plants each fault of this folder into a copy of the tree, and lets the simulator look for it.
#
#   sim/mutants/run.sh                 all of them
#   sim/mutants/run.sh 09 lease        those whose names contain a word
#   SEEDS=0..1000 EVENTS=20000 JOBS=2  how far to look
#
# Prints a row for each: the fault, the promise that was broken, the seed, the events until then.
# Exit code 1 if one was not found, or does not apply.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}/mutants
tree=$target/tree
seeds=${SEEDS:-0..1000}
events=${EVENTS:-20000}
jobs=${JOBS:-2}

rm -rf "$tree"
mkdir -p "$tree"
# The tree as it is, committed or not, without what git ignores.
(cd "$root" && git ls-files -co --exclude-standard -z |
    tar --create --null --files-from=- --ignore-failed-read --file=- 2>/dev/null) | tar --extract --directory="$tree" --file=-

# The copy lies inside the repository, whose own index must not be asked.
plant() {
    (cd "$tree" && GIT_CEILING_DIRECTORIES=$target git apply "$@" 2>/dev/null)
}

chosen=()
for patch in "$here"/*.patch; do
    name=$(basename "$patch" .patch)
    if [ $# -eq 0 ]; then
        chosen+=("$patch")
        continue
    fi
    for word in "$@"; do
        if [[ $name == *"$word"* ]]; then
            chosen+=("$patch")
            break
        fi
    done
done

missed=0
for patch in "${chosen[@]}"; do
    name=$(basename "$patch" .patch)
    what=$(head -n 1 "$patch")
    if ! plant "$patch"; then
        echo "| $name | $what | DOES NOT APPLY | | |"
        missed=1
        continue
    fi
    # Only what the simulator runs must compile; what a fault leaves unused does not matter.
    if ! (cd "$tree" && RUSTFLAGS=-Awarnings cargo build --quiet --profile mutant -p sim --target-dir "$target/build" 2>"$target/$name.log"); then
        echo "| $name | $what | DOES NOT COMPILE | | |"
        missed=1
    else
        "$target/build/mutant/sim" --seeds "$seeds" --events "$events" --jobs "$jobs" >"$target/$name.out" 2>&1 || true
        property=$(sed -n 's/^seed [0-9]*: broken: //p' "$target/$name.out" | head -n 1)
        seed=$(sed -n 's/^seed \([0-9]*\): broken: .*/\1/p' "$target/$name.out" | head -n 1)
        after=$(sed -n 's/^  after \([0-9]*\) events.*/\1/p' "$target/$name.out" | head -n 1)
        echo "| $name | $what | ${property:-NOT FOUND} | $seed | $after |"
        [ -n "$seed" ] || missed=1
    fi
    plant --reverse "$patch"
done
exit $missed
