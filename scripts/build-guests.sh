#!/usr/bin/env bash
# Builds the engine's example guests into example-plugins/wasm-runtime/guests/built, where they are checked in, and
# writes down in `built/SHA256SUMS` which sources they were built from. A test holds the two together.
#
#   scripts/build-guests.sh
#
# Needs `rustup target add wasm32-unknown-unknown wasm32-wasip2`, and for the guest in C the compiler of Zig: `zig` on
# the path, or ZIG='python3 -m ziglang' after `pip install ziglang`. The linker for components comes with Rust.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
guests=$root/example-plugins/wasm-runtime/guests
built=$guests/built
target=${CARGO_TARGET_DIR:-$guests/rust/target}
read -ra zig <<<"${ZIG:-zig}"
mkdir -p "$built"

bin=$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin
if [ ! -x "$bin/wasm-component-ld" ]; then
    echo "error: this Rust toolchain has no wasm-component-ld in $bin" >&2
    exit 1
fi

# Panic messages name the folders of whoever builds; they do not belong into the files.
remap="--remap-path-prefix=$root=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
component="-Clink-arg=--wasm-ld-path -Clink-arg=$bin/gcc-ld/wasm-ld"
build() { # TARGET PACKAGE…
    local to=$1
    shift
    (cd "$guests/rust" &&
        CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$bin/wasm-component-ld \
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="$remap $component" \
            CARGO_TARGET_WASM32_WASIP2_RUSTFLAGS=$remap \
            cargo build --quiet --locked --release --target "$to" --target-dir "$target" "${@/#/--package=}")
    for guest in "$@"; do
        install -m 644 "$target/$to/release/$guest.wasm" "$built/$guest.wasm"
    done
}
# Without a standard library below: nothing of WASI is imported.
build wasm32-unknown-unknown caller counter echo
# With one.
build wasm32-wasip2 reader

"${zig[@]}" cc --target=wasm32-freestanding -Os -nostdlib -s -Wall -Wextra -Werror \
    -Wl,--no-entry -Wl,-z,stack-size=16384 -o "$built/shout.wasm" "$guests/c/shout.c"
chmod 644 "$built/shout.wasm"

cd "$guests"
{
    find c rust -type f -not -path 'rust/target/*' -print0
    find ../../../plugin-api/wit built -type f -not -name SHA256SUMS -print0
} | LC_ALL=C sort -z | xargs -0 sha256sum >built/SHA256SUMS
ls -l built
