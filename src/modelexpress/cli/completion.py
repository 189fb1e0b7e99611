# SPDX-License-Identifier: Apache-2.0
"""`completion`: what a shell needs to complete our commands, flags and models."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from modelexpress import compose
from modelexpress.cli.environment import of
from modelexpress.cli.setting_flags import read_flags
from modelexpress.domain.errors import MxError


class Shell(Enum):
    """The shells that can be told."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


_BASH = """\
_{name}() {{
    local IFS=$'\\n'
    COMPREPLY=($(env COMP_WORDS="${{COMP_WORDS[*]}}" COMP_CWORD="$COMP_CWORD" {variable}=complete_bash "$1"))
}}
complete -o default -F _{name} {program}
"""
_ZSH = """\
#compdef {program}
_{name}() {{
    eval "$(env _TYPER_COMPLETE_ARGS="${{words[1,$CURRENT]}}" {variable}=complete_zsh {program})"
}}
compdef _{name} {program}
"""
_FISH = (
    "complete --command {program} --no-files"
    ' --arguments "(env {variable}=complete_fish _TYPER_COMPLETE_FISH_ACTION=get-args'
    ' _TYPER_COMPLETE_ARGS=(commandline -cp) {program})"'
    ' --condition "env {variable}=complete_fish _TYPER_COMPLETE_FISH_ACTION=is-args'
    ' _TYPER_COMPLETE_ARGS=(commandline -cp) {program}"\n'
)
_SCRIPTS = {Shell.BASH: _BASH, Shell.ZSH: _ZSH, Shell.FISH: _FISH}


def completion(
    context: typer.Context,
    shell: Annotated[Shell, typer.Argument(help="Your shell: bash, zsh or fish.", show_default=False)],
) -> None:
    """Print the completion script of a shell.

    As in: source <(modelexpress completion bash)
    """
    environment = of(context)
    program = environment.program
    name = program.replace("-", "_")
    script = _SCRIPTS[shell].format(program=program, name=name, variable=f"_{name}_COMPLETE".upper())
    environment.output.result({"shell": shell.value, "script": script}, lambda: [script.rstrip()])


def complete_models(context: typer.Context, incomplete: str) -> list[str]:
    """The models in the local cache whose names begin so."""
    try:
        root = _find_cache(context)
        folders = [path.name for path in root.glob("models--*") if path.is_dir()]
    except (MxError, OSError):
        # A shell that completes is no place to complain.
        return []
    names = sorted(name.removeprefix("models--").replace("--", "/") for name in folders)
    return [name for name in names if name.startswith(incomplete)]


def _find_cache(context: typer.Context) -> Path:
    """The cache directory that the line, as far as it is typed, and the environment lead to."""
    given: dict[str, Any] = {}
    here: Any = context
    while here is not None:
        given = {name: value for name, value in here.params.items() if value} | given
        here = here.parent
    flags = read_flags("client", given)
    directory: Path
    directory = compose.load_settings(
        "client", {"cache.directory": flags.get("cache.directory")}, of(context).env, given.get("config")
    ).settings.cache.directory
    return directory
