# SPDX-License-Identifier: Apache-2.0
"""`pull`: make a model readable here and print where it is, and nothing else, on standard output."""

from __future__ import annotations

from typing import Annotated

import typer

from modelexpress.cli.completion import complete_models
from modelexpress.cli.environment import of
from modelexpress.cli.pulling import STRATEGY_HELP, Wanted, describe, pull_model, tell_oddities
from modelexpress.domain.progress import format_bytes
from modelexpress.domain.refs import ProviderKind
from modelexpress.domain.selection import Weights
from modelexpress.domain.strategy import Strategy


def pull(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="org/name or org/name@revision.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ],
    revision: Annotated[
        str | None, typer.Option("--revision", "-r", help="Branch, tag, refs/pr/N or commit.")
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option("--include", metavar="GLOB", help="Only these files; may be repeated.")
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option("--exclude", metavar="GLOB", help="Not these files; may be repeated.")
    ] = None,
    weights: Annotated[
        Weights | None,
        typer.Option(
            "--weights", help="Which weight files: all, none or safetensors-first.", show_default=False
        ),
    ] = None,
    strategy: Annotated[
        Strategy, typer.Option("--strategy", "-s", help=STRATEGY_HELP)
    ] = Strategy.SMART_FALLBACK,
) -> None:
    """Pull a model and print where it is.

    The snapshot directory stands alone on standard output: vllm serve "$(modelexpress pull ORG/NAME)"
    """
    environment = of(context)
    wanted = Wanted(
        model,
        ProviderKind.HUGGING_FACE,
        revision,
        strategy,
        tuple(include or ()),
        tuple(exclude or ()),
        weights,
    )
    pulled = pull_model(environment, wanted)
    tell_oddities(environment, pulled)
    how = "nothing to fetch" if not pulled.bytes_fetched else f"{format_bytes(pulled.bytes_fetched)} fetched"
    environment.output.note(f"{pulled.ref.name}@{pulled.commit[:12]}: {how} ({pulled.transfer.value})")
    environment.output.result(describe(wanted, pulled), lambda: [str(pulled.path)])
