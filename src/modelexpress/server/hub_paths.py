# SPDX-License-Identifier: Apache-2.0
"""What an address of a Hub means: a file of a revision, or a question to the API. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from modelexpress.cache.hub_documents import Question
from modelexpress.domain.errors import Invalid
from modelexpress.domain.hub import REPOSITORY_TYPES, Document, DocumentRequest, refusal
from modelexpress.domain.manifest import check_path
from modelexpress.domain.refs import ModelRef, ProviderKind

_TYPES = REPOSITORY_TYPES[1:]
_FILE_WORDS = ("resolve", "raw")
_ABOUT = ("revision", "tree", "paths-info", "refs", "auth-check", "commits", "xet-read-token")
_REFERENCES = ("pr", "convert")  # of `refs/pr/1`, which some write without quoting
_MOST_PATHS = 10_000


@dataclass(frozen=True, slots=True)
class FileAddress:
    """A file of a revision. `is_raw`: as git holds it, a pointer in place of a large file."""

    ref: ModelRef
    path: str
    is_raw: bool = False


class Refused(Exception):
    """An address that is refused, in the Hub's words."""

    def __init__(self, document: Document) -> None:
        super().__init__(document.status)
        self.document = document


def read_file_address(raw_path: str) -> FileAddress | None:
    """The file that `/org/name/resolve/revision/path` names; None for other addresses. Raises Refused."""
    parts = raw_path.removeprefix("/").split("/")
    start = 1 if parts[0] in _TYPES else 0
    at = next((n for n in (start + 2, start + 1) if len(parts) > n and parts[n] in _FILE_WORDS), None)
    if at is None or len(parts) < at + 3:
        return None
    name, rest = "/".join(map(unquote, parts[:at])), [unquote(part) for part in parts[at + 1 :]]
    width = 3 if rest[0] == "refs" and rest[1] in _REFERENCES else 1
    revision, path = "/".join(rest[:width]), "/".join(rest[width:])
    ref = _read_ref(name, revision)
    _check_path(path)
    return FileAddress(ref, path, is_raw=parts[at] == "raw")


def read_question(raw_path: str, query: str, body: bytes | None, content_type: str) -> Question | None:
    """What `/api/…` asks of a repository, or who the caller is; None for anything else. Raises Refused."""
    parts = raw_path.removeprefix("/").split("/")
    request = DocumentRequest(raw_path.removeprefix("/"), query, body, content_type)
    if parts == ["api", "whoami-v2"]:
        return Question("other", request)
    if len(parts) < 3 or parts[1] not in REPOSITORY_TYPES:
        return None
    at = next((n for n in (4, 3) if len(parts) > n and parts[n] in _ABOUT), len(parts))
    if at > 4:
        return None
    name = "/".join(map(unquote, parts[2:at]))
    typed = name if parts[1] == "models" else f"{parts[1]}/{name}"
    word, rest = "".join(parts[at : at + 1]), [unquote(part) for part in parts[at + 1 :]]
    if word == "xet-read-token":
        raise Refused(refusal(404, "", "files are read through this server, without Xet"))
    is_about_revision = word in ("revision", "tree", "paths-info", "commits")
    ref = _read_ref(typed, rest[0] if is_about_revision and rest else None)
    return _make_question(word, rest, request, ref)


def _make_question(word: str, rest: list[str], request: DocumentRequest, ref: ModelRef) -> Question:
    asked = parse_qs(request.query)
    is_plain = not ({"expand[]", "cursor", "limit"} & asked.keys()) and not _is_true(asked, "expand")
    if word in ("", "revision") and is_plain and "expand" not in asked:
        return Question("description", request, ref, has_blobs=_is_true(asked, "blobs"))
    if word == "refs":
        return Question("refs", request, ref)
    if word == "tree" and is_plain:
        folder, is_recursive = _read_folder(rest[1:]), _is_true(asked, "recursive")
        return Question("tree", request, ref, folder=folder, is_recursive=is_recursive)
    if word == "tree":
        return Question("pages", request, ref, folder=_read_folder(rest[1:]))
    if word == "paths-info":
        paths, is_expanded = _read_paths(request)
        return Question("pages" if is_expanded else "paths", request, ref, paths=paths)
    return Question("other", request, ref)


def _read_folder(rest: list[str]) -> str:
    folder = "/".join(rest).removesuffix("/")
    if folder:
        _check_path(folder)
    return folder


def _check_path(path: str) -> None:
    try:
        check_path(path)
    except Invalid:
        raise Refused(refusal(404, "EntryNotFound", "nothing can have that path")) from None


def _read_paths(request: DocumentRequest) -> tuple[tuple[str, ...], bool]:
    try:
        text = (request.body or b"").decode()
        if request.content_type.partition(";")[0].strip().endswith("json"):
            said = json.loads(text)
            paths, expand = said["paths"], str(said.get("expand", ""))
            found = (paths,) if isinstance(paths, str) else tuple(str(path) for path in paths)
        else:
            form = parse_qs(text)
            found, expand = tuple(form["paths"]), form.get("expand", [""])[0]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Refused(refusal(400, "", "'paths' is a list of paths")) from None
    if len(found) > _MOST_PATHS:
        raise Refused(refusal(400, "", f"at most {_MOST_PATHS} paths can be asked for at once"))
    return found, expand.lower() in ("true", "1")


def _is_true(asked: Mapping[str, list[str]], name: str) -> bool:
    return asked.get(name, [""])[0].lower() in ("true", "1")


def _read_ref(name: str, revision: str | None) -> ModelRef:
    try:
        ref = ModelRef(ProviderKind.HUGGING_FACE, name)
    except Invalid as error:
        raise Refused(refusal(404, "RepoNotFound", error.message)) from None
    try:
        return ref if revision is None else ModelRef(ref.provider, name, revision)
    except Invalid as error:
        raise Refused(refusal(404, "RevisionNotFound", error.message)) from None
