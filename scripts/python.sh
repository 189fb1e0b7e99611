# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Finds an interpreter; sourced by the other scripts.

# Prints the first Python >= 3.11 that can make virtual environments. It is run, not only looked up:
# a version manager's shim can stand in PATH with nothing behind it.
find_python() {
    local name
    for name in ${PYTHON:-python3.13 python3.12 python3.11 python3 python}; do
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$name"
            return
        fi
    done
    echo "error: no Python 3.11 or newer with venv was found (tried: ${PYTHON:-python3.13, python3.12," \
        "python3.11, python3, python}). Install one, or name it: PYTHON=/path/to/python3 make setup" >&2
    return 1
}
