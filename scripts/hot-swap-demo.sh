#!/usr/bin/env bash
# Swaps echo and counter between two builds each, 20 swaps, while callers call both flat out, and prints the tally:
# calls made, answered and failed, the longest wait, whether the count is right, and whether the old builds are gone.
# Ends non-zero when anything was lost.
#
#   scripts/hot-swap-demo.sh           a swap every 250 ms, 5 seconds altogether
#   scripts/hot-swap-demo.sh --once    the same 20 swaps, one after the other, at once
#
# What calls and swaps is tests/src/bin/hot_swap.rs. The build is a release build, as one would run it.
set -euo pipefail

pause=250
case "${1-}" in
    "") ;;
    --once) pause=5 ;;
    *) echo "usage: hot-swap-demo.sh [--once]" >&2; exit 2 ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf '\n== %s\n' "$*" >&2; }

say "building the host and two builds each of echo and counter (the first time takes some minutes)"
# One by one: the host's dependencies are built with features that are not for plugins.
cargo build --release --manifest-path "$root/Cargo.toml" -p echo -p echo2 -p counter -p counter2
cargo build --release --manifest-path "$root/Cargo.toml" -p oxide-tests --bin hot_swap
target=$(cargo metadata --manifest-path "$root/Cargo.toml" --no-deps --format-version 1 |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')

say "calling echo and counter, and swapping each of them back and forth"
exec "$target/release/hot_swap" "$target/release" 20 "$pause"
