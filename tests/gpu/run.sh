#!/usr/bin/env bash
# The first thing to run where there is a GPU: tests, determinism, benchmarks, in at most nine minutes; one JSON file.
#
#   tests/gpu/run.sh [--out gpu.json] [--seconds 540] [--only step heads] [--rehearse]
#
# The most valuable sections come first; what there was no time for is said at the end. docs/gpu.md describes them.
# With --rehearse everything runs on the CPU, with little work in each section.
set -u
cd "$(dirname "$0")/../.." || exit 2
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
exec "${PYTHON:-python}" -m tests.gpu.sections "$@"
