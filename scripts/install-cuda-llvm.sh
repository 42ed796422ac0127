#!/usr/bin/env bash
# Makes `cargo build --release --features cuda` possible on machines that reach PyPI but not GitHub.
#
# Burn compiles its GPU kernels with LLVM, and its build links LLVM's static libraries. The crate
# tracel-llvm-bundler downloads them from a GitHub release, unless they are already where it would put them:
#
#     ${XDG_DATA_HOME:-$HOME/.local/share}/tracel/tracel-llvm-<version of the bundler>
#
# with an empty file `.tracel-llvm-installed` as the mark that the directory is whole. Two PyPI packages hold the
# same LLVM version as static libraries with an `llvm-config`: mlc-llvm-static (LLVM and this machine's own
# target) and mlc-llvm-static-extra-targets (the other targets, NVPTX for NVIDIA GPUs among them). This script
# installs both into a temporary directory, checks them, and moves them to that place.
#
#     scripts/install-cuda-llvm.sh
#
# Needs Linux on x86-64, python3 with pip, and a C compiler; 90 MB are downloaded and 400 MB stay. LLVM's own
# libraries need zstd and zlib: the Debian packages libzstd-dev and zlib1g-dev, installed here when run as root.
# Neither a GPU nor NVIDIA's toolkit is needed to build. A machine with open internet does not need this script.
set -euo pipefail

bundler=23.1.0-4        # the version of tracel-llvm-bundler that these packages stand in for
packages=23.1.1.post0   # their version on PyPI: LLVM 23.1

fail() {
    echo "error: $*" >&2
    exit 1
}

# Another bundler would look in another directory, for another LLVM.
lock="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/Cargo.lock"
locked=$(awk '/^name = "tracel-llvm-bundler"$/ { getline; gsub(/"/, "", $3); print $3 }' "$lock")
[[ "$locked" == "$bundler" ]] ||
    fail "Cargo.lock has tracel-llvm-bundler ${locked:-nowhere}, this script is for $bundler: it needs other packages now"

[[ "$(uname -sm)" == "Linux x86_64" ]] ||
    fail "this machine is $(uname -sm); the packages are for Linux x86_64 only"

prefix="${XDG_DATA_HOME:-$HOME/.local/share}/tracel/tracel-llvm-$bundler"
mark=.tracel-llvm-installed

# What the build will ask of a directory: all of LLVM's libraries, NVPTX among them, to be linked statically.
check() {
    local targets
    targets=$("$1/bin/llvm-config" --targets-built) || fail "$1/bin/llvm-config does not run"
    [[ " $targets " == *" NVPTX "* ]] || fail "the LLVM in $1 cannot compile for NVIDIA GPUs (it has: $targets)"
    "$1/bin/llvm-config" --link-static --libs >/dev/null || fail "the LLVM in $1 lacks libraries"
}

links_with_zstd_and_zlib() {
    echo 'int main(void) { return 0; }' | cc -x c - -o /dev/null -lzstd -lz 2>/dev/null
}

command -v cc >/dev/null || fail "there is no C compiler (Debian: build-essential)"
if ! links_with_zstd_and_zlib; then
    echo "zstd and zlib are missing: installing libzstd-dev and zlib1g-dev"
    if [[ "$(id -u)" == 0 ]] && command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq libzstd-dev zlib1g-dev >/dev/null
        links_with_zstd_and_zlib || fail "programs still cannot be linked with -lzstd -lz"
    else
        fail "not run as root on Debian: install libzstd-dev and zlib1g-dev (or your system's like), then run this again"
    fi
fi

if [[ -e "$prefix/$mark" ]]; then
    check "$prefix"
    echo "LLVM $("$prefix/bin/llvm-config" --version) was in place already: $prefix"
else
    python3 -m pip --version >/dev/null 2>&1 || fail "python3 has no pip (Debian: python3-pip)"
    # Beside its place, so that the last move is a rename: whole or not there.
    mkdir -p "$(dirname "$prefix")"
    work=$(mktemp -d "$prefix.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    echo "fetching LLVM's static libraries from PyPI ($packages)"
    python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps \
        --target "$work" "mlc-llvm-static==$packages" "mlc-llvm-static-extra-targets==$packages"
    check "$work/mlc_llvm_static/static"
    touch "$work/mlc_llvm_static/static/$mark"
    rm -rf "$prefix" # what an interrupted download of the bundler left
    mv "$work/mlc_llvm_static/static" "$prefix"
    echo "LLVM $("$prefix/bin/llvm-config" --version) is in place: $prefix"
fi
echo "now: cargo build --release --features cuda"
