#!/usr/bin/env bash
# What is checked before a change is taken: format, lints, documentation, tests, the quick start.
exec "$(dirname "${BASH_SOURCE[0]}")/../.ci/run"
