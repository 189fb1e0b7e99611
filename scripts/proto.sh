#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Generates the wire types from proto/; with --check it compares them with what is in the tree.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/python.sh
source scripts/python.sh

# The generator needs protobuf below 6, the tests want the newest: two environments.
make_environment() {
    [ -e .venv-proto/.set-up ] && [ .venv-proto/.set-up -nt pyproject.toml ] && return
    local python
    python=$(find_python)
    "$python" -m venv --clear .venv-proto
    .venv-proto/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
    .venv-proto/bin/python -m pip install --quiet --only-binary grpcio,grpcio-tools --group proto
    touch .venv-proto/.set-up
}

generate_into() {
    .venv-proto/bin/python -m grpc_tools.protoc --proto_path=proto --python_out="$1" --pyi_out="$1" \
        proto/modelexpress/wire/*.proto
}

make_environment
if [ "${1:-}" != --check ]; then
    generate_into src
    exit
fi
fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
generate_into "$fresh"
mkdir "$fresh/now"
cp src/modelexpress/wire/*_pb2.py src/modelexpress/wire/*_pb2.pyi "$fresh/now/"
if ! diff -r "$fresh/now" "$fresh/modelexpress/wire"; then
    echo "error: src/modelexpress/wire differs from what proto/ generates: run 'make proto'" >&2
    exit 1
fi
echo "generated code matches proto/"
