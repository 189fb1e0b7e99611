# SPDX-License-Identifier: Apache-2.0
"""`bench`: how fast your server gives a model to this machine, beside a download of the same files."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Annotated
from urllib.parse import urlsplit

import typer

from modelexpress.cli.benching import CROWD, Measured, measure
from modelexpress.cli.completion import complete_models
from modelexpress.cli.environment import of, read_ref
from modelexpress.cli.output import Document, columns
from modelexpress.cli.running import run_work
from modelexpress.domain.progress import format_bytes

_HEADS = ("what", "best", "median", "speed", "times as fast as the download")


def bench(
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
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            metavar="URL",
            help="Hub to download the same files from; the configured origin if not given.",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, max=100, help="How often everything is measured.")
    ] = 3,
) -> None:
    """Measure your server: cold, warm, and 4 clients at once, beside hf download.

    Everything is written below a temporary directory (see TMPDIR) and removed; your cache is not touched.
    A model that the server does not have is pulled there and stays; one that it has is never deleted.
    """
    environment = of(context)
    ref = read_ref(model)
    loaded = environment.load_client()
    origin = _check_url(against or loaded.settings.origin.endpoint)
    environment.output.details = {"model_name": model, "against": origin}
    measured = run_work(measure(environment, ref, origin, rounds))
    for note in measured.notes:
        environment.output.warn(note)
    environment.output.result(_document(model, origin, measured), lambda: _lines(model, measured))


def _check_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise typer.BadParameter("--against is an http or https URL without credentials: https://host")
    return text.rstrip("/")


def _document(model: str, origin: str, measured: Measured) -> Document:
    return {
        "success": True,
        "model_name": model,
        "resolved_revision": measured.commit,
        "bytes": measured.bytes,
        "files": measured.files,
        "server_had_it": measured.server_had_it,
        "against": origin,
        "downloaded_with": measured.downloaded_with,
        "seconds": {
            "server": measured.server,
            "cold": measured.cold,
            "warm": measured.warm,
            "fan_out": measured.fan_out,
            "download": measured.download,
        },
        "times_as_fast": {
            "cold": _ratio(measured.download, measured.cold),
            "warm": _ratio(measured.download, measured.warm),
            "fan_out": _ratio(measured.download, measured.fan_out),
        },
        "notes": measured.notes,
    }


def _lines(model: str, measured: Measured) -> Iterable[str]:
    size = f"{format_bytes(measured.bytes)} in {measured.files} files"
    yield f"{model}@{measured.commit[:12]}: {size}, {len(measured.cold)} rounds"
    named = {
        "the server, from its origin": (measured.server, None),
        "cold: the server to here": (measured.cold, _ratio(measured.download, measured.cold)),
        "warm: nothing to fetch": (measured.warm, _ratio(measured.download, measured.warm)),
        f"{CROWD} cold clients, the last": (measured.fan_out, _ratio(measured.download, measured.fan_out)),
        f"download with {measured.downloaded_with}": (measured.download, None),
    }
    yield from columns(
        _HEADS, [_row(what, *found, measured.bytes) for what, found in named.items() if found[0]]
    )


def _row(what: str, seconds: Sequence[float], ratio: float | None, size: int) -> tuple[str, ...]:
    best = min(seconds)
    speed = f"{size / 1e6 / best:.0f} MB/s" if not what.startswith("warm") else ""
    times = "" if ratio is None else f"{ratio:.2f}"
    return what, _shown(best), _shown(statistics.median(seconds)), speed, times


def _shown(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _ratio(theirs: Sequence[float], ours: Sequence[float]) -> float | None:
    """Of the bests; None where one of them was not measured."""
    return round(min(theirs) / min(ours), 3) if theirs and ours else None
