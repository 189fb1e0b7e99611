# SPDX-License-Identifier: Apache-2.0
"""Our transfer service: models, selections, progress, results and manifests on the wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelexpress.domain.errors import Corrupt, Invalid, MxError
from modelexpress.domain.held import Pulled
from modelexpress.domain.manifest import Digest, FileEntry
from modelexpress.domain.progress import Phase, Progress
from modelexpress.domain.refs import ModelRef, ProviderKind, shown
from modelexpress.domain.selection import Selection, Weights
from modelexpress.wire import transfer_pb2

IssueTicket = Callable[[FileEntry], str]


def to_ref(message: transfer_pb2.Model) -> ModelRef:
    """The model that a message names. Raises Invalid."""
    revision = message.revision if message.HasField("revision") else None
    return ModelRef(to_provider(message.provider), message.name, revision)


def to_provider(text: str) -> ProviderKind:
    """A provider by its name; empty is Hugging Face. Raises Invalid."""
    try:
        return ProviderKind(text or ProviderKind.HUGGING_FACE.value)
    except ValueError:
        known = ", ".join(kind.value for kind in ProviderKind)
        raise Invalid(f"Invalid provider value: {shown(text)}; known are {known}") from None


def from_ref(ref: ModelRef) -> transfer_pb2.Model:
    """A model as a message."""
    return transfer_pb2.Model(provider=ref.provider.value, name=ref.name, revision=ref.revision)


def to_selection(message: transfer_pb2.Selection) -> Selection:
    """A selection; empty weights are all. Raises Invalid."""
    try:
        weights = Weights(message.weights or Weights.ALL.value)
    except ValueError:
        known = ", ".join(weights.value for weights in Weights)
        raise Invalid(f"weights {shown(message.weights)} is not known; choose one of {known}") from None
    return Selection(weights, tuple(message.include), tuple(message.exclude))


def from_selection(selection: Selection) -> transfer_pb2.Selection:
    """A selection as a message."""
    return transfer_pb2.Selection(
        weights=selection.weights.value, include=selection.include, exclude=selection.exclude
    )


def pull_request(ref: ModelRef, selection: Selection | None) -> transfer_pb2.PullRequest:
    """Ask for a pull; `selection` None leaves the choice to the server."""
    chosen = None if selection is None else from_selection(selection)
    return transfer_pb2.PullRequest(model=from_ref(ref), selection=chosen)


def to_progress(message: transfer_pb2.Progress) -> Progress:
    """A moment of a pull; a phase that we do not know counts as downloading."""
    try:
        phase = Phase(message.phase)
    except ValueError:
        phase = Phase.DOWNLOADING
    return Progress(
        phase,
        message.bytes_done,
        message.bytes_total,
        message.files_done,
        message.files_total,
        message.bytes_per_second,
    )


def from_progress(progress: Progress) -> transfer_pb2.Progress:
    """A moment of a pull as a message."""
    return transfer_pb2.Progress(
        phase=progress.phase.value,
        bytes_done=max(progress.bytes_done, 0),
        bytes_total=progress.bytes_total,
        files_done=progress.files_done,
        files_total=progress.files_total,
        bytes_per_second=max(progress.bytes_per_second, 0.0),
    )


def from_pulled(pulled: Pulled, selection: Selection) -> transfer_pb2.Pulled:
    """The end of a pull as a message."""
    return transfer_pb2.Pulled(
        commit=pulled.manifest.commit,
        path=pulled.path,
        volume=pulled.volume,
        proof=pulled.proof.value,
        was_hit=pulled.was_hit,
        is_stale=pulled.is_stale,
        missing=pulled.missing,
        bytes_fetched=pulled.bytes_fetched,
        selection=from_selection(selection),
    )


def manifest_request(
    ref: ModelRef, commit: str, selection: Selection | None = None
) -> transfer_pb2.ManifestRequest:
    """Ask for the files of a selection; `selection` None: for the whole listing of the commit."""
    chosen = None if selection is None else from_selection(selection)
    return transfer_pb2.ManifestRequest(model=from_ref(ref.at(commit)), selection=chosen)


def to_page(
    commit: str, entries: Sequence[FileEntry], after: str, page_size: int, issue: IssueTicket | None = None
) -> transfer_pb2.ManifestPage:
    """The page of `entries` (in path order) that begins behind the path `after`; `issue` makes tickets."""
    rest = [entry for entry in entries if entry.path > after]
    page = rest[:page_size]
    following = page[-1].path if len(rest) > page_size else ""
    files = [_from_entry(entry, issue(entry) if issue is not None else "") for entry in page]
    return transfer_pb2.ManifestPage(commit=commit, files=files, next=following)


def to_entries(page: transfer_pb2.ManifestPage) -> list[FileEntry]:
    """The files of a page. Raises Corrupt when the server lists what cannot be."""
    try:
        return [_to_entry(file) for file in page.files]
    except MxError as error:
        raise Corrupt(f"the server's manifest cannot be used: {error}") from error


def _from_entry(entry: FileEntry, ticket: str) -> transfer_pb2.ManifestFile:
    return transfer_pb2.ManifestFile(
        path=entry.path,
        size=entry.size,
        digest="" if entry.digest is None else str(entry.digest),
        blob_id=entry.blob_id or "",
        xet_hash=entry.xet_hash or "",
        ticket=ticket,
    )


def _to_entry(file: transfer_pb2.ManifestFile) -> FileEntry:
    digest = Digest.parse(file.digest) if file.digest else None
    return FileEntry(file.path, file.size, digest, file.blob_id or None, file.xet_hash or None)
