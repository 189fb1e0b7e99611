# SPDX-License-Identifier: Apache-2.0
"""`cache plan`, `evict`, `explain`, `pins`, `pin`, `unpin`: what goes, what stays, and why."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from modelexpress.cli.completion import complete_models
from modelexpress.cli.environment import of, read_ref
from modelexpress.cli.output import columns
from modelexpress.config.durations import parse_duration
from modelexpress.domain.errors import Invalid
from modelexpress.domain.progress import format_bytes, parse_bytes

if TYPE_CHECKING:
    from modelexpress.domain.control import CacheControl
    from modelexpress.domain.held import HeldSnapshot
    from modelexpress.domain.space import EvictionPlan, Explained

_SHOWN_KEPT = 20

_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
_For = Annotated[
    str | None,
    typer.Option("--for", metavar="SIZE", help="So that this much fits, as in 40GB.", show_default=False),
]
_Models = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL...", help="org/name or org/name@revision; what the rules say when left out.",
        show_default=False, autocompletion=complete_models,
    ),
]  # fmt: skip
_Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="org/name or org/name@revision.", show_default=False,
        autocompletion=complete_models,
    ),
]  # fmt: skip
_Pattern = Annotated[
    str,
    typer.Argument(
        metavar="PATTERN", help="org/name, org/name@revision, or a glob such as 'org/*'.",
        show_default=False, autocompletion=complete_models,
    ),
]  # fmt: skip
_Until = Annotated[
    str | None,
    typer.Option(
        help="A day (2026-12-31), a time (2026-12-31T18:00) or a span from now (7d); for good when left out.",
        show_default=False,
    ),
]
_Sure = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_Forced = Annotated[
    bool, typer.Option("--force", help="Also what is in use or was handed out; pins hold always.")
]


def plan(context: typer.Context, wanted: _For = None) -> None:
    """Show the space, what would go of it now, and what is kept from going and why."""
    environment, size = of(context), _read_size(wanted)
    found = environment.with_control(lambda control: control.plan(size))
    document = {"success": True, "where": environment.where, **_document(found)}
    environment.output.result(document, lambda: [*_use_lines(found), *_plan_lines(found, "would evict")])


def evict(
    context: typer.Context,
    models: _Models = None,
    wanted: _For = None,
    is_forced: _Forced = False,
    is_dry_run: _DryRun = False,
    is_sure: _Sure = False,
) -> None:
    """Remove models that may go: these, or what the rules say, and so that --for fits.

    What is pinned, in use, handed out or another tool's is kept. 'cache plan' shows what would go.
    """
    environment, size, refs = of(context), _read_size(wanted), [read_ref(model) for model in models or ()]
    output = environment.output
    if not (is_dry_run or is_sure) and not (output.is_human and sys.stdin.isatty()):
        raise typer.BadParameter("nobody can be asked here: give --yes, or --dry-run to see the plan")

    async def act(control: CacheControl) -> tuple[EvictionPlan, bool]:
        planned = await control.evict(refs, size, True, is_forced)
        if is_dry_run or not planned.removal.removals:
            return planned, False
        if not is_sure:
            for line in _plan_lines(planned, "would evict"):
                output.note(line)
            if not output.ask("Evict?"):
                return planned, False
        return await control.evict(refs, size, False, is_forced), True

    found, is_done = environment.with_control(act)
    document = {"success": not found.missing, "where": environment.where, "dry_run": is_dry_run}
    verb = "evicted" if is_done else "would evict"
    output.result({**document, "is_done": is_done, **_document(found)}, lambda: _plan_lines(found, verb))
    if found.missing:
        raise typer.Exit(1)


def explain(context: typer.Context, model: _Model) -> None:
    """Say why a model is here: what it takes, who keeps it, and when it goes."""
    environment, ref = of(context), read_ref(model)
    found = environment.with_control(lambda control: control.explain(ref))
    snapshots = [_explained_document(one) for one in found]
    document = {"success": True, "where": environment.where, "snapshots": snapshots}
    environment.output.result(document, lambda: [line for one in found for line in _explained_lines(one)])


def pins(context: typer.Context) -> None:
    """List the pins."""
    environment = of(context)
    found = environment.with_control(lambda control: control.list_pins())
    rows = [(one.pattern, _time(one.created_at), _time(one.until) or "for good") for one in found]
    document = {"success": True, "where": environment.where, "pins": [asdict(one) for one in found]}
    environment.output.result(
        document, lambda: columns(("pattern", "since", "until"), rows) if rows else ["nothing is pinned"]
    )


def pin(context: typer.Context, pattern: _Pattern, until: _Until = None, is_dry_run: _DryRun = False) -> None:
    """Keep models from eviction and removal, those that are here and those that will be."""
    environment, end = of(context), _read_until(until)
    held = environment.with_control(lambda control: control.pin(pattern, end, is_dry_run))
    document = {
        "success": True,
        "where": environment.where,
        "dry_run": is_dry_run,
        "pattern": pattern,
        "until": end,
        "snapshots": [{"name": one.name, "commit": one.commit} for one in held],
    }
    environment.output.result(document, lambda: _pinned_lines(pattern, end, held, is_dry_run))


def unpin(
    context: typer.Context,
    patterns: Annotated[list[str], typer.Argument(metavar="PATTERN...", help="The words of the pins.")],
    is_dry_run: _DryRun = False,
) -> None:
    """End pins."""
    environment = of(context)
    found = environment.with_control(lambda control: control.unpin(patterns, is_dry_run))
    pinned = [asdict(one) for one in found]
    document = {"success": True, "where": environment.where, "dry_run": is_dry_run, "pins": pinned}
    verb = "would unpin" if is_dry_run else "unpinned"
    environment.output.result(document, lambda: [f"{verb} {one.pattern}" for one in found])


def _pinned_lines(
    pattern: str, until: float | None, held: list[HeldSnapshot], is_dry_run: bool
) -> Iterable[str]:
    verb = "would pin" if is_dry_run else "pinned"
    yield f"{verb} {pattern} " + ("for good" if until is None else f"until {_time(until)} UTC")
    for one in held:
        yield f"keeps {one.name}@{one.commit[:12]}"
    if not held:
        yield "nothing here matches yet"


def _use_lines(plan: EvictionPlan) -> Iterable[str]:
    use = plan.use
    budget = "no budget" if use.budget is None else f"budget {format_bytes(use.budget)}"
    kept_free = f", {format_bytes(use.kept_free)} of it kept free" if use.kept_free else ""
    yield f"used {format_bytes(use.used)}, {budget}; {format_bytes(use.free)} free on the disk{kept_free}"
    yield (
        f"may go {format_bytes(use.removable)}; arriving {format_bytes(use.arriving)}, promised "
        f"{format_bytes(use.promised)}, waiting to be deleted {format_bytes(use.leftovers)}"
    )
    is_over = use.room < 0
    yield f"{format_bytes(-use.room)} over the limits" if is_over else f"room for {format_bytes(use.room)}"


def _plan_lines(plan: EvictionPlan, verb: str) -> Iterable[str]:
    for one in plan.removal.removals:
        yield f"{verb} {one.name}@{one.commit[:12]}: {format_bytes(one.bytes_freed)} ({one.reason})"
    if plan.missing:
        yield f"{format_bytes(plan.missing)} cannot be had: nothing more may go"
    elif not plan.removal.removals:
        yield "nothing to evict"
    else:
        yield f"{format_bytes(plan.removal.bytes_freed)} in all"
    for kept in plan.kept[:_SHOWN_KEPT]:
        yield f"keeps {kept.name}@{kept.commit[:12]}: {format_bytes(kept.bytes)} ({kept.reason})"
    if plan.kept[_SHOWN_KEPT:]:
        yield f"keeps {len(plan.kept) - _SHOWN_KEPT} more"


def _explained_lines(one: Explained) -> Iterable[str]:
    held = one.held
    yield f"{held.name}@{held.commit[:12]} ({', '.join(held.refs) or 'no branch or tag'})"
    yield (
        f"  takes {format_bytes(held.bytes_on_disk)} of the disk, {format_bytes(held.bytes_shared)} shared; "
        f"{format_bytes(one.bytes_alone)} come free when it alone goes"
    )
    yield f"  last used {_time(held.last_used_at) or 'never'}"
    for pinned in one.pins:
        until = "" if pinned.until is None else f" until {_time(pinned.until)} UTC"
        yield f"  pinned as {pinned.pattern}{until}"
    for reader in one.readers:
        yield f"  in use: {reader}"
    for holder, end in one.leases:
        yield f"  handed out to {holder} until {_time(end)} UTC"
    yield f"  {one.fate}"


def _document(plan: EvictionPlan) -> dict[str, object]:
    removals = [asdict(one) | {"provider": one.provider.value} for one in plan.removal.removals]
    return {
        "use": asdict(plan.use),
        "evictions": removals,
        "bytes_freed": plan.removal.bytes_freed,
        "kept": [asdict(one) for one in plan.kept],
        "missing": plan.missing,
    }


def _explained_document(one: Explained) -> dict[str, object]:
    held = asdict(one.held) | {"provider": one.held.provider.value}
    return {
        **held,
        "bytes_alone": one.bytes_alone,
        "rank": one.rank,
        "fate": one.fate,
        "pins": [asdict(pinned) for pinned in one.pins],
        "readers": list(one.readers),
        "leases": [{"holder": holder, "until": until} for holder, until in one.leases],
    }


def _time(moment: float | None) -> str:
    return "" if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%F %R")


def _read_size(text: str | None) -> int:
    try:
        return 0 if text is None else parse_bytes(text)
    except Invalid as error:
        raise typer.BadParameter(error.message, param_hint="--for") from None


def _read_until(text: str | None) -> float | None:
    """The end of a pin in epoch seconds; a day means its end, in UTC."""
    try:
        return None if text is None else _read_moment(text, time.time())
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{(text or '')[:60]!r} is no span, and no day or time to come: give 7d, 2026-12-31 or "
            "2026-12-31T18:00",
            param_hint="--until",
        ) from None


def _read_moment(text: str, now: float) -> float:
    try:
        return now + parse_duration(text)
    except Invalid:
        moment = datetime.fromisoformat(text)
    is_day = len(text) == len("2026-12-31")
    end = moment.replace(hour=23, minute=59, second=59) if is_day else moment
    until = (end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp()
    if until <= now:
        raise ValueError("over already")
    return until
