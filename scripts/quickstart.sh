#!/usr/bin/env bash
# Builds the host and the example plugin `echo`, starts a host with it, and shows one call answered.
#
#   scripts/quickstart.sh           the host then runs until Ctrl-C
#   scripts/quickstart.sh --once    the host is ended at once, in the same orderly way
#
# The build is a debug build: it is there sooner. The socket is private to this run, unless OXIDE_SOCKET
# names one.
set -euo pipefail

once=no
case "${1-}" in
    "") ;;
    --once) once=yes ;;
    *) echo "usage: quickstart.sh [--once]" >&2; exit 2 ;;
esac

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
say() { printf '\n== %s\n' "$*" >&2; }

say "building the host and the plugin echo (the first time takes a minute or two)"
cargo build --manifest-path "$root/Cargo.toml" -p oxide-host -p echo
target=$(cargo metadata --manifest-path "$root/Cargo.toml" --no-deps --format-version 1 |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
oxide_host=$target/debug/oxide-host
plugin=$target/debug/libecho.so

folder=$(mktemp -d "${TMPDIR:-/tmp}/oxide-quickstart.XXXXXX")
trap 'rm -rf "$folder"' EXIT
export OXIDE_SOCKET="${OXIDE_SOCKET:-$folder/oxide.sock}"

if "$oxide_host" -q list >/dev/null 2>&1; then
    echo "error: a host is already running on $OXIDE_SOCKET" >&2
    echo "hint: unset OXIDE_SOCKET, and this script takes a socket of its own" >&2
    exit 1
fi

say "starting a host: oxide-host load libecho.so"
# A process group of its own: Ctrl-C then comes to this script alone, which passes it on once.
set -m
"$oxide_host" load "$plugin" </dev/null &
host=$!
set +m
trap 'kill -INT "$host" 2>/dev/null || true' INT TERM

# Waits for the host to end, also when a signal comes in between. Gives the host's exit status.
finish() {
    local status
    while :; do
        status=0
        wait "$host" || status=$?
        kill -0 "$host" 2>/dev/null || return "$status"
    done
}

tries=0
until "$oxide_host" -q --json show echo 2>/dev/null | grep -q '"state": *"running"'; do
    tries=$((tries + 1))
    if ! kill -0 "$host" 2>/dev/null; then
        finish
        exit $?
    fi
    if [ "$tries" -ge 300 ]; then
        echo "error: the host is up but echo is not running after 30 s" >&2
        kill -INT "$host"
        finish || true
        exit 1
    fi
    sleep 0.1
done

say 'oxide-host invoke echo echo "hello"'
"$oxide_host" invoke echo echo "hello"
[ -t 1 ] || echo  # a reply is its bytes and nothing else, except on a terminal

say "oxide-host list"
"$oxide_host" list

if [ "$once" = yes ]; then
    say "ending the host as Ctrl-C would"
    kill -INT "$host"
else
    say "the host is running; Ctrl-C ends it. From another terminal:"
    printf '\nexport OXIDE_SOCKET=%q\n%q invoke echo upper "hello"\n\n' "$OXIDE_SOCKET" "$oxide_host" >&2
fi
finish
