# SPDX-License-Identifier: Apache-2.0
"""`cache`: what a cache holds, and what to do about it; the server's cache when an endpoint is set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelexpress.cli.cache_space import evict, explain, pin, pins, plan, unpin
from modelexpress.cli.completion import complete_models
from modelexpress.cli.environment import Environment, of, read_ref
from modelexpress.cli.output import columns
from modelexpress.cli.progress import shown_progress
from modelexpress.cli.verifying import as_document as verified_document
from modelexpress.cli.verifying import verified_lines
from modelexpress.domain.progress import format_bytes
from modelexpress.domain.refs import ModelRef

if TYPE_CHECKING:
    from modelexpress.domain.control import CacheControl
    from modelexpress.domain.held import HeldSnapshot, RemovalPlan, Verified

_DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")]
_Sure = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_REVISION_HELP = "a branch, a tag, or the first 7 or more digits of a commit"
_OneModel = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]", help=f"org/name or org/name@revision: {_REVISION_HELP}; all when left out.",
        show_default=False, autocompletion=complete_models,
    ),
]  # fmt: skip

Plan = Callable[["CacheControl", bool], Coroutine[Any, Any, "RemovalPlan"]]


def make_app() -> typer.Typer:
    """The `cache` commands."""
    app = typer.Typer(
        help="What the cache holds.\n\nThe server's cache when an endpoint is set, else the local directory.",
        no_args_is_help=True,
    )
    verbs: list[Callable[..., None]] = [ls, rm, prune, verify, adopt, plan, evict, explain, pins, pin, unpin]
    for act in verbs:
        app.command(act.__name__)(act)
    return app


def ls(context: typer.Context) -> None:
    """List the snapshots in the cache."""
    environment = of(context)
    held = environment.with_control(lambda control: control.list_held())
    total = sum(one.bytes_added for one in held)
    on_disk = sum(one.bytes_on_disk_added for one in held)

    def lines() -> Iterable[str]:
        heads = ("model", "commit", "refs", "on disk", "shared", "files", "used", "state")
        yield from columns(heads, [_row(one) for one in held])
        yield f"{len(held)} snapshots, {format_bytes(total)}, on disk {format_bytes(on_disk)}"

    environment.output.result(
        {
            "success": True,
            "where": environment.where,
            "snapshots": [_describe(one) for one in held],
            "total_bytes": total,
            "total_size": format_bytes(total),
            "total_on_disk": on_disk,
        },
        lines,
    )


def rm(
    context: typer.Context,
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help=f"org/name or org/name@revision: {_REVISION_HELP}.",
            show_default=False,
            autocompletion=complete_models,
        ),
    ],
    is_dry_run: _DryRun = False,
    is_sure: _Sure = False,
) -> None:
    """Remove models, or single revisions of them."""
    refs = [read_ref(model) for model in models]
    _remove(of(context), lambda control, is_dry: control.remove(refs, is_dry), is_dry_run, is_sure)


def prune(context: typer.Context, is_dry_run: _DryRun = False, is_sure: _Sure = False) -> None:
    """Remove snapshots that no branch or tag names any more, and what broken-off pulls left behind."""
    _remove(of(context), lambda control, is_dry: control.prune(is_dry), is_dry_run, is_sure)


def verify(
    context: typer.Context,
    model: _OneModel = None,
    is_repair: Annotated[
        bool,
        typer.Option(
            "--repair",
            help="Fetch again what is damaged, of large files only the chunks that differ; "
            "what another tool wrote stays as it is.",
        ),
    ] = False,
) -> None:
    """Prove every file again from its bytes; exit status 1 when one is damaged and was not repaired.

    A safetensors file that was published so that no loader reads it is named too; that is no damage.
    """
    environment = of(context)
    ref = _find_ref(model)

    async def act(control: CacheControl) -> list[Verified]:
        with shown_progress(environment.output) as report:
            return await control.verify(ref, report, is_repair)

    found = environment.with_control(act, has_origins=is_repair)
    is_sound = all(one.is_sound for one in found)
    document = {
        "success": is_sound,
        "where": environment.where,
        "repair": is_repair,
        "bytes_fetched": sum(one.bytes_fetched for one in found),
        "verified": verified_document(found),
    }
    environment.output.result(document, lambda: verified_lines(found) if found else ["nothing to verify"])
    if not is_sound:
        raise typer.Exit(1)


def adopt(context: typer.Context, model: _OneModel = None, is_dry_run: _DryRun = False) -> None:
    """Prove snapshots that other tools wrote and take them over, so that they may be removed by us."""
    environment = of(context)
    ref = _find_ref(model)
    held = environment.with_control(lambda control: control.adopt(ref, is_dry_run))

    def lines() -> Iterable[str]:
        verb = "would adopt" if is_dry_run else "adopted"
        for one in held:
            yield f"{verb} {one.name}@{one.commit[:12]}: {one.files} files, {format_bytes(one.bytes)}"
        if not held:
            yield "nothing to adopt"

    environment.output.result(
        {
            "success": True,
            "where": environment.where,
            "dry_run": is_dry_run,
            "snapshots": [_describe(one) for one in held],
        },
        lines,
    )


def _find_ref(model: str | None) -> ModelRef | None:
    return None if model is None else read_ref(model)


def _remove(environment: Environment, plan: Plan, is_dry_run: bool, is_sure: bool) -> None:
    """Show the plan, ask, carry it out."""
    output = environment.output
    if not (is_dry_run or is_sure) and not (output.is_human and sys.stdin.isatty()):
        raise typer.BadParameter("nobody can be asked here: give --yes, or --dry-run to see the plan")

    async def act(control: CacheControl) -> tuple[RemovalPlan, bool]:
        planned = await plan(control, True)
        if is_dry_run or not (planned.removals or planned.leftovers):
            return planned, False
        if not is_sure:
            for line in _plan_lines(planned, "would remove"):
                output.note(line)
            if not output.ask("Remove?"):
                return planned, False
        return await plan(control, False), True

    found, is_done = environment.with_control(act)
    document = {
        "success": True,
        "where": environment.where,
        "dry_run": is_dry_run,
        "is_done": is_done,
        "removals": [asdict(one) | {"provider": one.provider.value} for one in found.removals],
        "leftovers": found.leftovers,
        "bytes_freed": found.bytes_freed,
        "notes": list(found.notes),
    }
    verb = "removed" if is_done else "would remove"
    output.result(document, lambda: _plan_lines(found, verb))


def _plan_lines(plan: RemovalPlan, verb: str) -> Iterable[str]:
    for one in plan.removals:
        kept = f", {one.files_kept} files stay" if one.files_kept else ""
        freed = format_bytes(one.bytes_freed)
        yield f"{verb} {one.name}@{one.commit[:12]}: {one.files_removed} files, {freed}{kept} ({one.reason})"
    if plan.leftovers:
        yield f"{verb} {plan.leftovers} leftovers of broken-off work: {format_bytes(plan.leftover_bytes)}"
    if not plan.removals and not plan.leftovers:
        yield "nothing to remove"
    else:
        yield f"{format_bytes(plan.bytes_freed)} in all"
    yield from plan.notes


def _row(one: HeldSnapshot) -> tuple[str, ...]:
    used = "" if one.last_used_at is None else datetime.fromtimestamp(one.last_used_at, UTC).strftime("%F %R")
    refs = ", ".join(one.refs) or "-"
    sizes = format_bytes(one.bytes_on_disk), format_bytes(one.bytes_shared) if one.bytes_shared else "-"
    return one.name, one.commit[:12], refs, *sizes, str(one.files), used or "-", _state(one) + _keepers(one)


def _keepers(one: HeldSnapshot) -> str:
    pinned = f", pinned as {', '.join(one.pins)}" if one.pins else ""
    return pinned + (f", {one.readers} readers" if one.readers else "")


def _state(one: HeldSnapshot) -> str:
    if one.is_adopted:
        return "adopted"
    if not one.is_recorded:
        return "not proven yet, written by another tool"
    if one.bytes_ours == 0:
        return "proven, written by another tool"
    return "ours" if one.bytes_ours == one.bytes else "partly ours"


def _describe(one: HeldSnapshot) -> dict[str, object]:
    document = asdict(one) | {"provider": one.provider.value}
    return document | {"refs": list(one.refs), "selections": list(one.selections), "state": _state(one)}
