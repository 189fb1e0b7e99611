# SPDX-License-Identifier: Apache-2.0
"""What `pull` and `model download` share: words to a pull, and its end to words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelexpress.cli.environment import Environment, read_ref
from modelexpress.cli.output import Document
from modelexpress.cli.progress import shown_progress
from modelexpress.domain.refs import ProviderKind
from modelexpress.domain.selection import Selection, Weights
from modelexpress.domain.strategy import Strategy

if TYPE_CHECKING:
    from modelexpress.client import AsyncClient, LocalModel

STRATEGY_HELP = (
    "server-only; direct, from the origin; or smart-fallback, from the origin when no server answers."
)

_STRATEGY_NAMES = {
    Strategy.SMART_FALLBACK: "SmartFallback",
    Strategy.SERVER_ONLY: "ServerOnly",
    Strategy.DIRECT: "Direct",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A pull as it was asked for on the command line."""

    name: str
    provider: ProviderKind
    revision: str | None
    strategy: Strategy
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    weights: Weights | None = None


def pull_model(environment: Environment, wanted: Wanted) -> LocalModel:
    """Pull what is wanted, with progress on standard error."""
    ref = read_ref(wanted.name, wanted.provider, wanted.revision)
    environment.output.details = _named(wanted, ref.provider)
    settings = environment.load_client().settings
    selection = _find_selection(wanted, Weights(settings.pull.weights))

    async def act(client: AsyncClient) -> LocalModel:
        with shown_progress(environment.output) as report:
            return await client.pull(ref, selection, wanted.strategy, report)

    return environment.with_client(act)


def describe(wanted: Wanted, model: LocalModel) -> Document:
    """The pull's end for programs."""
    return {
        **_named(wanted, model.ref.provider),
        "success": True,
        "message": f"Model '{wanted.name}' downloaded successfully",
        "resolved_revision": model.commit or None,
        "path": str(model.path),
        "transfer": model.transfer.value,
        "selection": model.selection.key,
        "was_hit": model.was_hit,
        "is_stale": model.is_stale,
        "bytes_fetched": model.bytes_fetched,
        "missing": list(model.missing),
    }


def tell_oddities(environment: Environment, model: LocalModel) -> None:
    """Warn of what the path does not show."""
    if model.is_stale:
        environment.output.warn(
            f"the origin did not answer: {model.ref} is what was here, commit {model.commit[:12]}"
        )
    if model.missing:
        environment.output.warn(f"the origin lists but does not have: {', '.join(model.missing)}")


def _named(wanted: Wanted, provider: ProviderKind) -> dict[str, object]:
    return {
        "model_name": wanted.name,
        "provider": provider.value,
        "strategy": _STRATEGY_NAMES[wanted.strategy],
    }


def _find_selection(wanted: Wanted, default: Weights) -> Selection | None:
    if not wanted.include and not wanted.exclude and wanted.weights is None:
        return None
    return Selection(wanted.weights or default, wanted.include, wanted.exclude)
