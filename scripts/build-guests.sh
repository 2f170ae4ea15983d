#!/usr/bin/env bash
# Builds the engine's example guests into example-plugins/wasm-runtime/guests/built, where they are checked in, and
# writes down which sources they were built from. A test holds the two together.
#
#   scripts/build-guests.sh
#
# Needs `rustup target add wasm32-unknown-unknown`, and for the guest in C the compiler of Zig: `zig` on the path, or
# `pip install ziglang`. The linker for components comes with the Rust toolchain.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
guests=$root/example-plugins/wasm-runtime/guests
built=$guests/built
target=${CARGO_TARGET_DIR:-$guests/rust/target}
mkdir -p "$built"

bin=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
if [ ! -x "$bin/wasm-component-ld" ]; then
    echo "error: this Rust toolchain has no wasm-component-ld in $bin" >&2
    exit 1
fi

# The standard library's panic messages name the folders of whoever built it; they do not belong into the file.
flags="--remap-path-prefix=$root=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
flags+=" -Clink-arg=--wasm-ld-path -Clink-arg=$bin/gcc-ld/wasm-ld"
(cd "$guests/rust" &&
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$bin/wasm-component-ld \
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS=$flags \
        cargo build --quiet --locked --release --target wasm32-unknown-unknown --target-dir "$target")
for guest in caller counter echo; do
    cp "$target/wasm32-unknown-unknown/release/$guest.wasm" "$built/$guest.wasm"
done

ls -l "$built"
