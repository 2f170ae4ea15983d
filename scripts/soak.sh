#!/usr/bin/env bash
# Loads and unloads plugins over and over and fails when anything of them is left: scripts/soak.sh [CYCLES]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec cargo run --quiet --release --package oxide-tests --bin soak -- "$@"
