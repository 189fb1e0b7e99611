#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes .venv with the package, its tests and its checks. PYTHON=... chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/python.sh
source scripts/python.sh

python=$(find_python)
[ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || "$python" -m venv --clear .venv
echo "setting up .venv with $(.venv/bin/python --version)"
# `pip install --group` came with pip 25.1.
.venv/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
.venv/bin/python -m pip install --quiet --editable . --group test --group lint
