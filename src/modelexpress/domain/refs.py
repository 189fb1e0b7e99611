# SPDX-License-Identifier: Apache-2.0
"""What to pull: provider, name, revision; one grammar, so that no name can leave its place."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from modelexpress.domain.errors import Invalid

DEFAULT_BRANCH = "main"

_SHOWN_CHARACTERS = 80
_HF_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_.!&,()'][A-Za-z0-9_.!&,()'+=@#/-]{0,254}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TYPES = ("datasets", "spaces")  # no organisation has these names
_MOST_BYTES = 1024  # of an object's key in the stores that have the longest


class ProviderKind(Enum):
    """Where a model was published; the value is the name on the command line and in settings."""

    HUGGING_FACE = "hugging-face"
    NGC = "ngc"
    GCS = "gcs"
    S3 = "s3"


SCHEMES = {"s3://": ProviderKind.S3, "gs://": ProviderKind.GCS, "ngc://": ProviderKind.NGC}


def shown(text: str) -> str:
    """`text` quoted for a message: escaped, and cut so that a hostile name cannot flood a log."""
    cut = text[:_SHOWN_CHARACTERS]
    tail = f"… ({len(text)} characters)" if len(text) > _SHOWN_CHARACTERS else ""
    return ascii(cut) + tail


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A model as its user names it. `revision` None means the origin's default branch."""

    provider: ProviderKind
    name: str
    revision: str | None = None

    def __post_init__(self) -> None:
        _check_name(self.provider, self.name)
        if self.revision is not None:
            _check_revision(self.provider, self.revision)

    @classmethod
    def parse(
        cls,
        text: str,
        provider: ProviderKind = ProviderKind.HUGGING_FACE,
        revision: str | None = None,
    ) -> ModelRef:
        """Read `org/name`, `org/name@revision` or `s3://…`; a scheme overrides `provider`.

        Raises Invalid when the text is no model name, or names a second, different revision.
        """
        name = text.lstrip()
        kind = infer_provider(name, provider)
        if kind is ProviderKind.HUGGING_FACE and "@" in name:
            name, _, named = name.partition("@")
            if revision is not None and revision != named:
                raise Invalid(
                    f"two revisions for {shown(name)}: {shown(named)} in the name and "
                    f"{shown(revision)} beside it; give one"
                )
            revision = named
        return cls(kind, name, revision)

    @property
    def is_pinned(self) -> bool:
        """True when the revision is a full commit, which can never move."""
        return self.revision is not None and is_commit(self.revision)

    @property
    def repository(self) -> ModelRef:
        """The same model, whatever the revision."""
        return ModelRef(self.provider, self.name)

    def at(self, commit: str) -> ModelRef:
        """The same model pinned to `commit`."""
        return ModelRef(self.provider, self.name, commit)

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def infer_provider(name: str, default: ProviderKind) -> ProviderKind:
    """The provider that a name's scheme selects (any case, leading blanks ignored), else `default`."""
    lowered = name.lstrip()[:8].lower()
    for scheme, kind in SCHEMES.items():
        if lowered.startswith(scheme):
            return kind
    return default


def is_commit(text: str) -> bool:
    """True for a full 40-digit commit id."""
    return _COMMIT.fullmatch(text) is not None


def _check_name(provider: ProviderKind, name: str) -> None:
    if provider is not ProviderKind.HUGGING_FACE:
        _check_other_name(provider, name)
        return
    parts = name.split("/")
    if len(parts) > 1 and parts[0] in _TYPES:
        parts = parts[1:]
    is_valid = (
        len(parts) <= 2
        and all(_HF_PART.fullmatch(part) for part in parts)
        and "--" not in name
        and ".." not in name
        and not name.endswith(".git")
    )
    if not is_valid:
        raise Invalid(
            f"{shown(name)} is not a Hugging Face model name: expected 'org/name' or 'name' of letters, "
            "digits, '-', '_' and '.', at most 96 characters each, without '--' or '..'"
        )


def _check_other_name(provider: ProviderKind, name: str) -> None:
    cut = name[:_MOST_BYTES]
    is_long = len(cut) < len(name) or len(cut.encode("utf-8", "replace")) > _MOST_BYTES
    scheme = next((scheme for scheme in SCHEMES if cut.lower().startswith(scheme)), "")
    parts = cut[len(scheme) :].rstrip("/").split("/")
    has_control = any(ord(character) < 32 or ord(character) == 127 for character in cut)
    if is_long or has_control or "\\" in cut or any(part in ("", ".", "..") for part in parts):
        raise Invalid(
            f"{shown(name)} is not a model name for provider {provider.value}: "
            f"at most {_MOST_BYTES} bytes, no segment empty, '.', '..' or with control characters"
        )


def _check_revision(provider: ProviderKind, revision: str) -> None:
    if provider is not ProviderKind.HUGGING_FACE:
        raise Invalid(
            f"provider {provider.value} does not support pinned revisions: leave {shown(revision)} out"
        )
    parts = revision.split("/")
    if not _REVISION.fullmatch(revision) or any(part in ("", ".", "..") for part in parts):
        raise Invalid(
            f"{shown(revision)} is not a revision: expected a branch, a tag, 'refs/pr/N' or a commit id; "
            "leave it out for the default branch"
        )
