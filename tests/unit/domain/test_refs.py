# SPDX-License-Identifier: Apache-2.0
"""Names and revisions: what is a model ref, and what is refused."""

import pytest

from modelexpress.domain.errors import Invalid
from modelexpress.domain.refs import ModelRef, ProviderKind, infer_provider, shown

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize("name", ["gpt2", "google-t5/t5-small", "a/b.c_d-e", "_x/y_", "A1/" + "b" * 96])
def test_hub_names_are_accepted(name: str) -> None:
    assert ModelRef.parse(name).name == name


@pytest.mark.parametrize(
    "name",
    ["", "/", "a/", "/a", "a/b/c", "..", "../x", "a/..", "a--b/c", "a/b--c", "a/b.git", "a b", "a/b\0", "é/x",
     "/etc/passwd", "a\\b", "x" * 1_000_000, "a/" + "b" * 97, "-a/b", "a/.b", "a\nb", "~/x"],
)  # fmt: skip
def test_names_that_could_leave_their_place_are_refused(name: str) -> None:
    with pytest.raises(Invalid) as caught:
        ModelRef(ProviderKind.HUGGING_FACE, name)

    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "revision", ["main", "v1.0", "refs/pr/12", "feature/x", COMMIT, "abc1234", "r+1", "!(a,b)&c's"]
)
def test_branches_tags_pull_requests_and_commits_are_revisions(revision: str) -> None:
    assert ModelRef.parse("a/b", revision=revision).revision == revision


@pytest.mark.parametrize(
    "revision",
    ["", "..", "../x", "a/../b", "/etc", "a//b", "a/", "a\0", "a b", "a\\b", "-x", "x" * 300, "é", "a\n"],
)
def test_revisions_that_could_leave_their_place_are_refused(revision: str) -> None:
    with pytest.raises(Invalid):
        ModelRef.parse("a/b", revision=revision)


def test_a_revision_can_be_part_of_the_name() -> None:
    assert ModelRef.parse("a/b@v1") == ModelRef(ProviderKind.HUGGING_FACE, "a/b", "v1")


def test_two_different_revisions_are_refused_and_equal_ones_are_not() -> None:
    assert ModelRef.parse("a/b@v1", revision="v1").revision == "v1"
    with pytest.raises(Invalid, match="two revisions"):
        ModelRef.parse("a/b@v1", revision="v2")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("s3://b/k", ProviderKind.S3), (" gs://b/k", ProviderKind.GCS), ("NGC://o/n/v", ProviderKind.NGC),
     ("org/name", ProviderKind.HUGGING_FACE)],
)  # fmt: skip
def test_a_scheme_selects_the_provider(name: str, kind: ProviderKind) -> None:
    assert infer_provider(name, ProviderKind.HUGGING_FACE) is kind


def test_a_scheme_overrides_the_provider_and_nothing_else_does() -> None:
    assert infer_provider("s3://b/k", ProviderKind.NGC) is ProviderKind.S3
    assert infer_provider("org/name", ProviderKind.NGC) is ProviderKind.NGC


@pytest.mark.parametrize("name", ["s3://", "s3://b/../x", "gs://b//k", "ngc://o/n\\v", "s3://b/\0"])
def test_other_providers_names_are_checked_too(name: str) -> None:
    with pytest.raises(Invalid):
        ModelRef.parse(name)


def test_only_hugging_face_has_revisions() -> None:
    with pytest.raises(Invalid, match="does not support pinned revisions"):
        ModelRef.parse("gs://b/k", revision="main")


def test_only_a_full_commit_is_pinned() -> None:
    assert ModelRef.parse("a/b", revision=COMMIT).is_pinned
    assert not ModelRef.parse("a/b", revision=COMMIT[:12]).is_pinned
    assert not ModelRef.parse("a/b").is_pinned


def test_shown_text_is_escaped_and_cut() -> None:
    assert shown("a\nb\x1b[31m") == r"'a\nb\x1b[31m'"
    assert len(shown("x" * 1_000_000)) < 200
