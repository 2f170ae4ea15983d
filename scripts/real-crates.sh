#!/usr/bin/env bash
# Loads, uses and unloads plugins around crates that people really use, 200 times each, each in a process of its
# own, and prints what became of them. Ends non-zero when anything was unsafe or not as expected.
#
#   scripts/real-crates.sh [--cycles N] [--into docs/safety.md] [NAME…]
#
# A debug build: it is there sooner, and what an unload has to undo is the same. The workspace has a lock and a
# target folder of its own, unless CARGO_TARGET_DIR says otherwise.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
manifest=$root/tests/real-crates/Cargo.toml

# Apart from the others: one build for all would turn on plugin-api's feature `tokio` for all of them.
with_tokio=(uses-tokio uses-reqwest)
cargo build --locked --manifest-path "$manifest" --workspace "${with_tokio[@]/#/--exclude=}"
cargo build --locked --manifest-path "$manifest" "${with_tokio[@]/#/--package=}"

target=$(cargo metadata --manifest-path "$manifest" --no-deps --format-version 1 |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
exec "$target/debug/real-crates" "$@"
