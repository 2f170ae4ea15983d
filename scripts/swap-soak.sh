#!/usr/bin/env bash
# Swaps a module under load, 10,000 times or as often as is said, or every 20 ms for so many seconds, and fails when a
# call is lost or repeated, or anything is left of an old build: scripts/swap-soak.sh [SWAPS|SECONDSs]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo run --quiet --release --package oxide-tests --bin soak -- swap "$@"
