# SPDX-License-Identifier: Apache-2.0
"""Where everything stands under the cache root; pure, no file is touched here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelexpress.domain.manifest import Digest, FileEntry
from modelexpress.domain.refs import ModelRef, ProviderKind

_MODELS = "models--"
_OTHERS = ("datasets--", "spaces--")


@dataclass(frozen=True, slots=True)
class Repository:
    """The directory of one Hugging Face model in the standard cache layout."""

    root: Path
    name: str

    @property
    def path(self) -> Path:
        """`models--org--name`."""
        return self.root / _folder_of(self.name)

    @property
    def blobs(self) -> Path:
        """File bytes, named by their digest."""
        return self.path / "blobs"

    @property
    def snapshots(self) -> Path:
        """One directory of links for each commit."""
        return self.path / "snapshots"

    @property
    def refs(self) -> Path:
        """Branch and tag names, each a file that holds a commit."""
        return self.path / "refs"

    def blob(self, digest: Digest) -> Path:
        """The blob that holds bytes with this digest."""
        return self.blobs / digest.value

    def snapshot(self, commit: str) -> Path:
        """The directory of `commit`."""
        return self.snapshots / commit

    def tree(self, commit: str) -> Path:
        """The listing of `commit` by which huggingface_hub 2.x knows that a snapshot is a subset."""
        return self.path / "trees" / f"{commit}.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """A cache root: Hugging Face repositories beside `.mx`, where everything of ours is."""

    root: Path

    @property
    def ours(self) -> Path:
        """Our own directory, on the same file system as the blobs."""
        return self.root / ".mx"

    @property
    def records(self) -> Path:
        """What is complete, file by file: one record a commit."""
        return self.ours / "records"

    @property
    def partials(self) -> Path:
        """Files that are arriving, each under a name of its own."""
        return self.ours / "partials"

    @property
    def digests(self) -> Path:
        """The BLAKE3 of every chunk of proven files: one list a file, the format's number in the name."""
        return self.ours / "digests" / "1"

    @property
    def staging(self) -> Path:
        """Directories and small files on their way to one rename."""
        return self.ours / "staging"

    @property
    def trash(self) -> Path:
        """What was taken out of the layout and waits to be deleted."""
        return self.ours / "trash"

    @property
    def removals(self) -> Path:
        """What is being removed: written before the first file goes, so that a crash stops none halfway."""
        return self.ours / "removals"

    @property
    def given(self) -> Path:
        """What was given out before it was proven: one folder a file, one note a partial file."""
        return self.ours / "given"

    @property
    def leases(self) -> Path:
        """Who was told where a snapshot stands."""
        return self.ours / "leases"

    def lease_folder(self, provider: str, name: str, commit: str) -> Path:
        """Those who hold the path of one commit."""
        return self.leases / provider / _folder_of(name) / commit

    def repository(self, ref: ModelRef) -> Repository:
        """The repository of `ref`."""
        return Repository(self.root, ref.name)

    def record(self, ref: ModelRef, commit: str) -> Path:
        """The record of one commit."""
        return self.record_folder(ref) / f"{commit}.json"

    def digest_list(self, digest: Digest) -> Path:
        """The digest list of the bytes with this digest; the same in every repository."""
        return self.digests / f"{digest.kind.value}-{digest.value}"

    def record_folder(self, ref: ModelRef) -> Path:
        """The records of one model."""
        return self.records / ref.provider.value / _folder_of(ref.name)


def _folder_of(name: str) -> str:
    folder = name.replace("/", "--")
    return folder if folder.startswith(_OTHERS) else _MODELS + folder


def model_name_of(directory_name: str) -> str | None:
    """The repository that a `models--…` or `datasets--…` directory belongs to; None for any other directory.

    A Hub name cannot hold `--`, so only the first one separates organisation and name.
    """
    if directory_name.startswith(_OTHERS):
        kind, _, name = directory_name.partition("--")
        return f"{kind}/{name.replace('--', '/', 1)}"
    if not directory_name.startswith(_MODELS):
        return None
    return directory_name.removeprefix(_MODELS).replace("--", "/", 1)


def link_target(entry: FileEntry, digest: Digest) -> str:
    """What a snapshot's link says: relative, so that the cache can be moved or mounted elsewhere."""
    return "../" * (entry.path.count("/") + 2) + f"blobs/{digest.value}"


def model_ref(name: str) -> ModelRef:
    """A Hugging Face ref without a revision."""
    return ModelRef(ProviderKind.HUGGING_FACE, name)
