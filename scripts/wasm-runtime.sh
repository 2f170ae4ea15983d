#!/usr/bin/env bash
# The engine for WASM guests: a workspace of its own, which neither the default build nor its lock knows of.
#
#   scripts/wasm-runtime.sh [build]        builds it, and says where the library is
#   scripts/wasm-runtime.sh test           lints and tests
#   scripts/wasm-runtime.sh soak [CYCLES]  loads and unloads guests, 1,000 times unless told otherwise
#   scripts/wasm-runtime.sh bench          times calls and loads
#
# In release, and always all packages: another choice would choose other features and build wasmtime, which takes
# minutes, once more.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root/example-plugins/wasm-runtime"

build() {
    cargo build --release --locked --workspace
}
# Where the libraries and programs are, wherever CARGO_TARGET_DIR or a configuration put them.
built() {
    cargo metadata --no-deps --format-version 1 --locked | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}

case ${1-build} in
build)
    build
    ls "$(built)"/release/libwasm_runtime.so
    ;;
test)
    build
    cargo fmt --all --check
    cargo clippy --release --locked --workspace --all-targets -- -D warnings
    cargo test --release --locked --workspace --no-fail-fast
    ;;
soak)
    build
    exec "$(built)/release/soak" "${2-1000}"
    ;;
bench)
    build
    exec "$(built)/release/bench"
    ;;
*)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
    exit 2
    ;;
esac
