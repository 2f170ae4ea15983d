#!/usr/bin/env bash
# Runs the tests over compiled plugins in a host that AddressSanitizer or Valgrind watches; the plugins are
# ordinary ones. scripts/sanitize.sh asan|valgrind [TEST FILE…]
#
# asan needs a nightly toolchain, valgrind the program of that name. Leaks are not looked for here: what a test
# leaks on purpose is most of what there is (scripts/soak.sh measures growth).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tool=${1-}
[ $# -gt 0 ] && shift
tests=("$@")
[ ${#tests[@]} -gt 0 ] || tests=(unloading unmapping calls tasks logs tokio_plugin)
selected=()
for test in "${tests[@]}"; do
    [ -e "tests/tests/$test.rs" ] || [ -d "tests/tests/$test" ] || continue
    selected+=(--test "$test")
done
target=$(rustc -vV | sed -n 's/^host: //p')
folder=${CARGO_TARGET_DIR:-target}/sanitize

case $tool in
asan)
    # Not through RUSTFLAGS, which the plugins' build would inherit: a plugin built so does not load.
    export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=1
    exec cargo +nightly test --target "$target" --target-dir "$folder" \
        --config "target.$target.rustflags=['-Zsanitizer=address']" \
        --package oxide-tests "${selected[@]}" -- --test-threads=2
    ;;
valgrind)
    command -v valgrind >/dev/null || { echo "error: valgrind is not installed" >&2; exit 1; }
    # Children are followed, which is where the worst tests run, but not the compiler.
    runner="valgrind --quiet --error-exitcode=99 --fair-sched=yes --num-callers=30 --suppressions=$PWD/scripts/valgrind.supp"
    runner+=" --trace-children=yes --trace-children-skip=*cargo*,*rustc*,*rustup*,*/cc,*/ld*,*collect2*"
    exec cargo test --target "$target" --target-dir "$folder" \
        --config "target.$target.runner='$runner'" \
        --package oxide-tests "${selected[@]}" -- --test-threads=1
    ;;
*)
    echo "usage: scripts/sanitize.sh asan|valgrind [TEST FILE…]" >&2
    exit 2
    ;;
esac
