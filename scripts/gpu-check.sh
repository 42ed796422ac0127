#!/usr/bin/env bash
# Checks genir on a machine with an NVIDIA GPU: the same numbers as on the CPU, and how fast and how large it is beside
# PyTorch. docs/gpu.md says how to build the binaries and how to read what this prints.
#
#     scripts/gpu-check.sh BINARY_DIR [--device cuda] [--only correctness|speed] [--shape t5-small ...] [--report FILE]
#
# BINARY_DIR holds `genir` and `step_server`, built with `--features cuda`. Needs python3; with torch and transformers
# in it, PyTorch is measured beside. Neither Rust nor the network is used. A check that fails makes the status 1.
#
#     scripts/gpu-check.sh target/release --device cpu --small
#
# goes through all of it without a GPU, with shapes that take a minute or two.
set -euo pipefail

fail() {
    echo "error: $*" >&2
    exit 1
}

[[ $# -ge 1 && "$1" != -* ]] || fail "usage: scripts/gpu-check.sh BINARY_DIR [options]; --help behind it lists them"
binaries=$1
shift
[[ -x "$binaries/genir" ]] || fail "$binaries/genir is not there, or cannot be run"

# `cargo build --example step_server` puts it into a directory beside genir.
step_server="$binaries/step_server"
[[ -x "$step_server" ]] || step_server="$binaries/examples/step_server"
[[ -x "$step_server" ]] || fail "step_server is neither in $binaries nor in $binaries/examples"

command -v python3 >/dev/null || fail "python3 is not there"
python=${GENIR_PYTHON:-python3}

exec "$python" "$(dirname "${BASH_SOURCE[0]}")/gpu_check.py" \
    --genir "$(realpath "$binaries/genir")" --step-server "$(realpath "$step_server")" "$@"
