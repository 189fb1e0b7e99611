# SPDX-License-Identifier: Apache-2.0
"""The established model service: its messages in our words, and ours in its."""

from __future__ import annotations

from collections.abc import Sequence

from modelexpress.domain.errors import Invalid
from modelexpress.domain.refs import ModelRef, ProviderKind
from modelexpress.domain.selection import Selection, Weights
from modelexpress.wire import model_pb2

_KINDS = {
    model_pb2.HUGGING_FACE: ProviderKind.HUGGING_FACE,
    model_pb2.NGC: ProviderKind.NGC,
    model_pb2.GCS: ProviderKind.GCS,
    model_pb2.S3: ProviderKind.S3,
}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}
_SCHEMES = {ProviderKind.GCS: "gs://", ProviderKind.S3: "s3://"}

NamedModel = model_pb2.ModelDownloadRequest | model_pb2.ModelFilesRequest | model_pb2.DeleteModelRequest


def to_ref(message: NamedModel) -> ModelRef:
    """The model that a request names. An absent provider is Hugging Face, an absent revision the default.

    Raises Invalid for a provider number that nobody knows, or a name or revision that is none.
    """
    kind = _KINDS.get(message.provider)
    if kind is None:
        raise Invalid(f"Invalid provider value: {message.provider}; known are 0 to {max(_KINDS)}")
    revision = None
    if not isinstance(message, model_pb2.DeleteModelRequest) and message.HasField("revision"):
        revision = message.revision
    return ModelRef(kind, canonical_name(kind, message.model_name), revision)


def canonical_name(kind: ProviderKind, name: str) -> str:
    """The one spelling of a name: of buckets without trailing slashes and with the scheme in lower case."""
    scheme = _SCHEMES.get(kind)
    if scheme is None:
        return name
    trimmed = name.lstrip()
    if not trimmed.lower().startswith(scheme):
        raise Invalid(f"a {kind.value} model is named {scheme}bucket/prefix, not {name[:80]!r}")
    return scheme + trimmed[len(scheme) :].rstrip("/")


def to_selection(is_without_weights: bool) -> Selection | None:
    """What the established switch asks for; None leaves the choice to the settings."""
    return Selection(Weights.NONE) if is_without_weights else None


def provider_number(kind: ProviderKind) -> model_pb2.ModelProvider:
    """The wire's number of a provider."""
    return _NUMBERS[kind]


def download_request(ref: ModelRef, is_without_weights: bool) -> model_pb2.ModelDownloadRequest:
    """Ask an established server to have a model."""
    return model_pb2.ModelDownloadRequest(
        model_name=ref.name,
        provider=provider_number(ref.provider),
        ignore_weights=is_without_weights,
        revision=ref.revision,
    )


def files_request(
    ref: ModelRef, commit: str, paths: Sequence[str] | None, chunk_bytes: int
) -> model_pb2.ModelFilesRequest:
    """Ask for files of a commit; `paths` None: all of them."""
    selector = None if paths is None else model_pb2.ModelFileSelector(paths=paths)
    return model_pb2.ModelFilesRequest(
        model_name=ref.name,
        provider=provider_number(ref.provider),
        chunk_size=min(chunk_bytes, 2**32 - 1),
        file_selector=selector,
        revision=commit,
    )


def delete_request(ref: ModelRef) -> model_pb2.DeleteModelRequest:
    """Ask a server to remove a model."""
    return model_pb2.DeleteModelRequest(model_name=ref.name, provider=provider_number(ref.provider))
