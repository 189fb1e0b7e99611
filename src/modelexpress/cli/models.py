# SPDX-License-Identifier: Apache-2.0
"""`model`: the established commands for models on this machine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from modelexpress import compose
from modelexpress.cli.completion import complete_models
from modelexpress.cli.environment import Environment, of, read_ref
from modelexpress.cli.output import Document
from modelexpress.cli.progress import shown_progress
from modelexpress.cli.pulling import STRATEGY_HELP, Wanted, describe, pull_model, tell_oddities
from modelexpress.cli.running import run_work
from modelexpress.cli.verifying import as_document as verified_document
from modelexpress.cli.verifying import verified_lines
from modelexpress.domain.errors import MxError, NotFound
from modelexpress.domain.progress import format_bytes
from modelexpress.domain.refs import ModelRef, ProviderKind, infer_provider
from modelexpress.domain.strategy import Strategy

if TYPE_CHECKING:
    from modelexpress.config.load import Loaded
    from modelexpress.domain.control import CacheControl
    from modelexpress.domain.held import HeldSnapshot, RemovalPlan, Verified

_Name = Annotated[
    str, typer.Argument(metavar="MODEL_NAME", show_default=False, autocompletion=complete_models)
]
_Provider = Annotated[
    ProviderKind,
    typer.Option(
        "--provider",
        "-p",
        help="Where it was published: hugging-face, ngc, gcs or s3; a scheme in the name overrides it.",
    ),
]
_Detailed = Annotated[bool, typer.Option("--detailed", help="More about each model.")]


@dataclass(frozen=True, slots=True)
class _Model:
    """A model on this machine, all its snapshots together."""

    provider: ProviderKind
    name: str
    size: int
    path: str

    def describe(self, has_path: bool) -> dict[str, object]:
        """The model for programs."""
        path = {"path": self.path} if has_path else {}
        sizes = {"size": self.size, "formatted_size": format_bytes(self.size)}
        return {"provider": self.provider.value, "name": self.name, **sizes, **path}


def make_app() -> typer.Typer:
    """The `model` commands."""
    app = typer.Typer(help="Models on this machine.", no_args_is_help=True)
    for act in (download, init, list_models, status, clear, clear_all, validate, stats):
        app.command("list" if act is list_models else act.__name__.replace("_", "-"))(act)
    return app


def download(
    context: typer.Context,
    model: _Name,
    provider: _Provider = ProviderKind.HUGGING_FACE,
    strategy: Annotated[
        Strategy, typer.Option("--strategy", "-s", help=STRATEGY_HELP)
    ] = Strategy.SMART_FALLBACK,
    revision: Annotated[
        str | None, typer.Option("--revision", "-r", help="Branch, tag, refs/pr/N or commit.")
    ] = None,
) -> None:
    """Make a model readable here."""
    environment = of(context)
    wanted = Wanted(model, provider, revision, strategy)
    pulled = pull_model(environment, wanted)
    tell_oddities(environment, pulled)
    document = describe(wanted, pulled)

    def lines() -> Iterable[str]:
        yield "Model Download"
        yield f"  Model:    {model}"
        yield f"  Provider: {pulled.ref.provider.value}"
        yield f"  Strategy: {strategy.value}"
        if revision is not None:
            yield f"  Revision: {revision}"
        yield f"✅ SUCCESS: {document['message']}"
        yield f"  Resolved revision: {pulled.commit}"
        yield f"  Path: {pulled.path}"

    environment.output.result(document, lines)


def init(
    context: typer.Context,
    storage_path: Annotated[str | None, typer.Option("--storage-path", help="Where models are kept.")] = None,
    server_endpoint: Annotated[
        str | None, typer.Option("--server-endpoint", help="The server's address.")
    ] = None,
) -> None:
    """Write ~/.model-express/config.yaml: where models are, and which server."""
    environment = of(context)
    named = environment.flags.get("connection.endpoint")
    endpoint = named if server_endpoint is None else server_endpoint
    written = compose.config_tools().write_init(environment.env, storage_path, endpoint)
    document = {
        "success": True,
        "path": str(written.path),
        "storage_path": written.local_path,
        "server_endpoint": written.server_endpoint,
    }

    def lines() -> Iterable[str]:
        yield f"Written: {written.path}"
        yield f"  Storage path:    {written.local_path}"
        yield f"  Server endpoint: {written.server_endpoint}"

    environment.output.result(document, lines)


def list_models(context: typer.Context, detailed: _Detailed = False) -> None:
    """List the models on this machine."""
    environment = of(context)
    models = _group(environment.with_local(lambda control: control.list_held()))

    def lines() -> Iterable[str]:
        if not models:
            yield "No models found in storage."
            return
        yield "Downloaded Models"
        yield f"Total models: {len(models)}"
        yield f"Total size: {_total(models)}"
        for model in models:
            path = f' "{model.path}"' if detailed else ""
            yield f"  [{model.provider.value}] {model.name} ({format_bytes(model.size)}){path}"

    environment.output.result({**_totals(models), "models": [m.describe(detailed) for m in models]}, lines)


def status(context: typer.Context) -> None:
    """Show where models are kept, and whether the server answers."""
    environment = of(context)
    loaded = environment.load_client()

    async def ask() -> tuple[list[_Model], str | None]:
        async with compose.open_local(loaded, environment.env) as control:
            models = _group(await control.list_held())
        async with compose.open_client(loaded, environment.env) as client:
            try:
                await client.health()
            except MxError as error:
                return models, error.message
            return models, None

    models, trouble = run_work(ask())
    directory = loaded.settings.cache.directory
    document = {
        **_totals(models),
        "storage_path": str(directory),
        "server_endpoint": loaded.settings.connection.endpoint,
        "storage_accessible": directory.is_dir(),
        "server_available": trouble is None,
    }

    def lines() -> Iterable[str]:
        yield "Storage Status"
        yield f"  {_mark(directory.is_dir())} Storage: {directory}"
        yield f"  {_mark(trouble is None)} Server: {loaded.settings.connection.endpoint}"
        if trouble is not None:
            yield f"     {trouble}"
        yield f"  Total models: {len(models)}"
        yield f"  Total size: {_total(models)}"

    environment.output.result(document, lines)


def clear(context: typer.Context, model: _Name, provider: _Provider = ProviderKind.HUGGING_FACE) -> None:
    """Remove a model from this machine and from the server."""
    environment = of(context)
    ref = read_ref(model, provider)
    loaded = environment.load_client()
    environment.output.details = {"model_name": model, "provider": ref.provider.value}
    warning, plan = run_work(_clear(environment, loaded, ref))
    for text in (*([warning] if warning else []), *(plan.notes if plan else ())):
        environment.output.warn(text)
    if plan is None:
        message = f"Model '{model}' is not in {loaded.settings.cache.directory}; nothing was removed there"
    else:
        message = f"Model '{model}' cleared; {format_bytes(plan.bytes_freed)} freed"
    document = {
        **environment.output.details,
        "success": True,
        "message": message,
        "bytes_freed": plan.bytes_freed if plan else 0,
        "notes": list(plan.notes) if plan else [],
        "registry_cleared": warning is None,
        "registry_warning": warning,
    }
    environment.output.result(document, lambda: [message])


def clear_all(
    context: typer.Context,
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove every model from this machine, and the same models from the server."""
    environment = of(context)
    loaded = environment.load_client()
    if environment.output.is_human and not is_sure:
        question = f"Remove all models from {loaded.settings.cache.directory} and from the server?"
        if not environment.output.ask(question):
            environment.output.note("nothing was removed")
            return
    done = run_work(_clear_all(environment, loaded))
    warnings = [warning for warning, _ in done if warning]
    notes = [note for _, plan in done if plan for note in plan.notes]
    for text in (*dict.fromkeys(warnings), *notes):
        environment.output.warn(text)
    freed = sum(plan.bytes_freed for _, plan in done if plan)
    message = f"{len(done)} models cleared; {format_bytes(freed)} freed"
    document = {
        "success": True,
        "message": message,
        "bytes_freed": freed,
        "notes": notes,
        "registry_records_cleared": len(done) - len(warnings),
        "registry_records_failed": len(warnings),
    }
    environment.output.result(document, lambda: [message])


def validate(
    context: typer.Context,
    model: Annotated[
        str | None,
        typer.Argument(metavar="[MODEL_NAME]", show_default=False, autocompletion=complete_models),
    ] = None,
) -> None:
    """Prove every file of a model, or of all models, again from its bytes; exit status 1 for damage."""
    environment = of(context)
    ref = read_ref(model, infer_provider(model, ProviderKind.HUGGING_FACE)) if model is not None else None
    held, found = environment.with_local(lambda control: _verify(environment, control, ref))
    models = _group(held)
    is_sound = all(one.is_sound for one in found)
    if ref is None:
        document = {**_totals(models), "models": [one.describe(False) for one in models]}
    else:
        document = {"model_name": model, "exists": bool(found), "path": models[0].path if models else None}
    checked = {"success": is_sound and (ref is None or bool(found)), "verified": verified_document(found)}

    def lines() -> Iterable[str]:
        yield from verified_lines(found)
        if ref is not None and not found:
            yield f"❌ {model} is not in the cache"

    environment.output.result({**document, **checked}, lines)
    if not checked["success"]:
        raise typer.Exit(1)


def stats(context: typer.Context, detailed: _Detailed = False) -> None:
    """Show how many models there are, and how large."""
    environment = of(context)
    models = _group(environment.with_local(lambda control: control.list_held()))
    details = {"detailed_models": [model.describe(True) for model in models]} if detailed else {}

    def lines() -> Iterable[str]:
        yield "Storage Statistics"
        yield f"Total models: {len(models)}"
        yield f"Total size: {_total(models)}"
        for model in models if detailed else ():
            size = f"{model.size} bytes ({format_bytes(model.size)})"
            yield f"  [{model.provider.value}] {model.name}: {size}"

    environment.output.result({**_totals(models), **details}, lines)


async def _clear(
    environment: Environment, loaded: Loaded, ref: ModelRef
) -> tuple[str | None, RemovalPlan | None]:
    """What the server could not do, and what was removed here (None: nothing was here)."""
    warning = None
    async with compose.open_client(loaded, environment.env) as client:
        try:
            await client.delete(ref)
        except MxError as error:
            warning = f"the server did not remove {ref}: {error.message}"
    async with compose.open_local(loaded, environment.env) as control:
        try:
            return warning, await control.remove([ref], is_dry_run=False)
        except NotFound:
            return warning, None


async def _clear_all(environment: Environment, loaded: Loaded) -> list[tuple[str | None, RemovalPlan | None]]:
    async with compose.open_local(loaded, environment.env) as control:
        models = _group(await control.list_held())
    return [await _clear(environment, loaded, ModelRef(model.provider, model.name)) for model in models]


async def _verify(
    environment: Environment, control: CacheControl, ref: ModelRef | None
) -> tuple[list[HeldSnapshot], list[Verified]]:
    with shown_progress(environment.output) as report:
        try:
            found = await control.verify(ref, report)
        except NotFound:
            found = []
    held = await control.list_held()
    return [one for one in held if ref is None or one.name == ref.name], found


def _group(held: Iterable[HeldSnapshot]) -> list[_Model]:
    """Snapshots as models, by provider and name; the path is that of the snapshot used last."""
    models: dict[tuple[ProviderKind, str], list[HeldSnapshot]] = {}
    for snapshot in held:
        models.setdefault((snapshot.provider, snapshot.name), []).append(snapshot)
    order = list(ProviderKind)
    return [
        _Model(provider, name, sum(s.bytes_added for s in snapshots), _newest(snapshots).path)
        for (provider, name), snapshots in sorted(
            models.items(), key=lambda item: (order.index(item[0][0]), item[0][1])
        )
    ]


def _newest(snapshots: list[HeldSnapshot]) -> HeldSnapshot:
    return max(snapshots, key=lambda snapshot: ("main" in snapshot.refs, snapshot.last_used_at or 0.0))


def _totals(models: list[_Model]) -> Document:
    return {"total_models": len(models), "total_size": _total(models)}


def _total(models: list[_Model]) -> str:
    return format_bytes(sum(model.size for model in models))


def _mark(is_good: bool) -> str:
    return "✅" if is_good else "❌"
