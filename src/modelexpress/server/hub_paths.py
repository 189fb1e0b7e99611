# SPDX-License-Identifier: Apache-2.0
"""What an address of a Hub means: a file of a revision, or a question to the API. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, unquote

from modelexpress.cache.hub_documents import Question
from modelexpress.domain.errors import Invalid
from modelexpress.domain.hub import REPOSITORY_TYPES, Document, DocumentRequest, api_path, refusal
from modelexpress.domain.manifest import check_path
from modelexpress.domain.refs import ModelRef, ProviderKind

_TYPES = REPOSITORY_TYPES[1:]
_FILE_WORDS = ("resolve", "raw")
_ABOUT_REVISION = ("revision", "tree", "paths-info", "commits")
_XET = ("xet-read-token", "xet-write-token")
_ABOUT = (*_ABOUT_REVISION, "refs", "auth-check", *_XET)
_JSON, _FORM = "application/json", "application/x-www-form-urlencoded"
_REFERENCES = ("pr", "convert")  # of `refs/pr/1`, which some write without quoting
_MOST_PATHS = 10_000
_MOST_MARKS = 4 * _MOST_PATHS  # of a list in JSON: names hold commas too
_INT_DIGITS = 18
_MOST_FIELD_CHARACTERS = 16 * 1024


@dataclass(frozen=True, slots=True)
class FileAddress:
    """A file of a revision. `is_raw`: as git holds it, a pointer in place of a large file."""

    ref: ModelRef
    path: str
    is_raw: bool = False


@dataclass(frozen=True, slots=True)
class ApiAddress:
    """A question to the API about a repository; `word` empty: what it is.

    `detail`: the folder of a tree, or `write` after `auth-check`.
    """

    ref: ModelRef
    word: str = ""
    detail: str = ""

    @property
    def path(self) -> str:
        """The same address made anew, so that the origin is asked what the right was checked for."""
        parts = ["api", api_path(self.ref.name), self.word, self.ref.revision or "", self.detail]
        return "/".join([*parts[:2], *(quote(part, safe="") for part in parts[2:] if part)])


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
    width = _revision_width(rest)
    revision, path = "/".join(rest[:width]), "/".join(rest[width:])
    ref = _read_ref(name, revision)
    _check_path(path)
    return FileAddress(ref, path, is_raw=parts[at] == "raw")


def read_api_address(raw_path: str) -> ApiAddress | None:
    """What `/api/…` asks of a repository; None where it is nothing that we know. Raises Refused."""
    parts = [unquote(part) for part in raw_path.removeprefix("/").split("/")]
    if len(parts) < 3 or parts[0] != "api" or parts[1] not in REPOSITORY_TYPES:
        return None
    at = next((n for n in (4, 3) if len(parts) > n and parts[n] in _ABOUT), len(parts))
    if at > 4:
        return None
    name, word, rest = "/".join(parts[2:at]), "".join(parts[at : at + 1]), parts[at + 1 :]
    if word in _XET:
        raise _without_xet()
    revision, detail = None, ""
    if word in _ABOUT_REVISION:
        width = _revision_width(rest)
        revision, rest = "/".join(rest[:width]), rest[width:]
    ref = _read_ref(name if parts[1] == "models" else f"{parts[1]}/{name}", revision)
    if word == "tree":
        detail, rest = _read_folder(rest), []
    elif word == "auth-check" and rest == ["write"]:
        detail, rest = "write", []
    return None if rest else ApiAddress(ref, word, detail)


def read_question(address: ApiAddress, query: str, body: bytes | None, content_type: str) -> Question:
    """What is asked at an address; `body` where it was posted. Raises Refused."""
    is_json = content_type.partition(";")[0].strip().lower().endswith("json")
    kind = "" if body is None else _JSON if is_json else _FORM
    request = DocumentRequest(address.path, query, body, kind)
    asked, word, ref = parse_qs(query), address.word, address.ref
    is_plain = not ({"expand[]", "cursor", "limit"} & asked.keys()) and not _is_true(asked, "expand")
    if word in ("", "revision") and is_plain and "expand" not in asked:
        return Question("description", request, ref, has_blobs=_is_true(asked, "blobs"))
    if word == "refs":
        return Question("refs", request, ref)
    if word == "tree" and is_plain:
        is_recursive = _is_true(asked, "recursive")
        return Question("tree", request, ref, folder=address.detail, is_recursive=is_recursive)
    if word == "tree":
        return Question("pages", request, ref, folder=address.detail)
    if word == "paths-info":
        paths, is_expanded = _read_paths(request)
        return Question("pages" if is_expanded else "paths", request, ref, paths=paths)
    return Question("other", request, ref)


def read_other_question(raw_path: str, query: str, passes_through: bool) -> Question | None:
    """Who the caller is, or, where such is passed on, any other question to `/api/…`. Raises Refused."""
    parts = [unquote(part) for part in raw_path.removeprefix("/").split("/")]
    if parts == ["api", "whoami-v2"]:
        return Question("other", DocumentRequest("api/whoami-v2", query))
    if parts[0] != "api" or not passes_through:
        return None
    try:
        # Some servers cut `..;x` to `..`.
        check_path("/".join(part.partition(";")[0] for part in "/".join(parts).split("/")))
    except Invalid:
        raise Refused(refusal(404, "", "the origin can have nothing at that address")) from None
    if any(part.lower() in _XET for part in "/".join(parts).split("/")):
        raise _without_xet()
    return Question("other", DocumentRequest("/".join(quote(part, safe="") for part in parts), query))


def _without_xet() -> Refused:
    return Refused(refusal(404, "", "files are read through this server, without Xet"))


def _revision_width(parts: list[str]) -> int:
    return 3 if parts[:1] == ["refs"] and "".join(parts[1:2]) in _REFERENCES else 1


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
    is_json = request.content_type == _JSON
    try:
        text = (request.body or b"").decode()
        if _is_too_many(text, is_json):
            raise Refused(refusal(400, "", f"at most {_MOST_PATHS} paths can be asked for at once"))
        paths, expand = _read_json(text) if is_json else _read_form(text)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise Refused(refusal(400, "", "'paths' is a list of paths")) from None
    if len(paths) > _MOST_PATHS:
        raise Refused(refusal(400, "", f"at most {_MOST_PATHS} paths can be asked for at once"))
    return paths, expand.lower() in ("true", "1")


def _is_too_many(text: str, is_json: bool) -> bool:
    """Counted before anything is made of it: half a million empty fields take more than a second."""
    if is_json:
        return sum(map(text.count, ",[{")) > _MOST_MARKS
    return text.count("&") > _MOST_PATHS


def _read_json(text: str) -> tuple[tuple[str, ...], str]:
    # Numbers of thousands of digits would be read digit by digit, and mean nothing here.
    said = json.loads(text, parse_int=lambda digits: int(digits[:_INT_DIGITS]))
    paths, expand = said["paths"], str(said.get("expand", ""))
    found = (paths,) if isinstance(paths, str) else tuple(paths)
    if not all(isinstance(path, str) for path in found):
        raise TypeError("a path is a text")
    return found, expand


def _read_form(text: str) -> tuple[tuple[str, ...], str]:
    if any(len(field) > _MOST_FIELD_CHARACTERS for field in text.split("&")):
        raise ValueError("no path is so long")  # and a MiB of `%41` is undone at one go
    form = parse_qs(text)
    return tuple(form["paths"]), form.get("expand", [""])[0]


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
