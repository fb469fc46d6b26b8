#!/bin/sh
# Finds what the build needs and names what is missing, in one line.
#
#   scripts/toolchain.sh python   prints the first Python that will do
#   scripts/toolchain.sh rust     prints the folder of cargo; checks its age and the C compiler
set -eu

rust_minor_min=85

missing() {
    echo "propius: $1" >&2
    exit 1
}

# Python >= 3.11 with venv and pip, not free-threaded (that one cannot load the stable ABI).
usable_python='
import ensurepip, sys, sysconfig, venv
sys.exit(sys.version_info < (3, 11) or bool(sysconfig.get_config_var("Py_GIL_DISABLED")))
'

find_python() {
    for name in ${PYTHON3:-python3 python3.14 python3.13 python3.12 python3.11}; do
        path=$(command -v "$name" 2>/dev/null) || continue
        if "$path" -c "$usable_python" >/dev/null 2>&1; then
            echo "$path"
            return
        fi
    done
    missing "no Python >= 3.11 with venv found; install one (Debian: apt-get install python3 python3-venv) or name it: make setup PYTHON3=/path/to/python3"
}

find_rust() {
    command -v cc >/dev/null 2>&1 ||
        missing "no C compiler (cc) found; install one (Debian: apt-get install gcc libc6-dev)"
    cargo=$(PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin" command -v cargo) ||
        missing "no Rust compiler found; install Rust >= 1.$rust_minor_min (https://rustup.rs)"
    folder=$(dirname "$cargo")
    version=$(PATH="$folder:$PATH" cargo --version 2>/dev/null | cut -d ' ' -f 2)
    minor=$(echo "$version" | cut -d . -f 2)
    [ "${minor:-0}" -ge "$rust_minor_min" ] ||
        missing "Rust ${version:-of unknown version} is too old; install Rust >= 1.$rust_minor_min (https://rustup.rs)"
    echo "$folder"
}

case "${1:-}" in
    python) find_python ;;
    rust) find_rust ;;
    *) missing "usage: scripts/toolchain.sh python|rust" ;;
esac
