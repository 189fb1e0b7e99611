# SPDX-License-Identifier: Apache-2.0
"""The first digits of a commit, as `cache ls` shows them, are enough for the other verbs."""

from __future__ import annotations

import shutil

import pytest
from tests.support.caches import NAME, pull
from tests.support.house import House

from modelexpress.domain.control import CacheControl
from modelexpress.domain.errors import Invalid, NotFound
from modelexpress.domain.progress import Progress
from modelexpress.domain.refs import ModelRef


def ignore(progress: Progress) -> None:
    pass


def commit(house: House, files: dict[str, bytes], branch: str = "main") -> str:
    return house.hub._repositories[NAME].commit(files, branch=branch)


async def test_the_beginning_of_a_commit_stands_for_it(house: House, control: CacheControl) -> None:
    old = await pull(house)
    commit(house, {"config.json": b"{}"})
    new = await pull(house)
    for revision in (old.commit[:12], old.commit[:39]):
        [verified] = await control.verify(ModelRef.parse(f"{NAME}@{revision}"), ignore)
        assert verified.commit == old.commit
        assert await control.adopt(ModelRef.parse(f"{NAME}@{revision}"), is_dry_run=True) == []
    plan = await control.remove([ModelRef.parse(f"{NAME}@{old.commit[:7]}")], is_dry_run=False)

    assert [removal.commit for removal in plan.removals] == [old.commit]
    assert [held.commit for held in await control.list_held()] == [new.commit]


async def test_too_few_digits_and_none_of_a_commit_here_are_not_found(
    house: House, control: CacheControl
) -> None:
    model = await pull(house)
    wrong = "".join("1" if digit == "0" else "0" for digit in model.commit[:12])
    for revision in (model.commit[:6], wrong, model.commit[:12] + "x"):
        with pytest.raises(NotFound):
            await control.remove([ModelRef.parse(f"{NAME}@{revision}")], is_dry_run=False)
        with pytest.raises(NotFound):
            await control.verify(ModelRef.parse(f"{NAME}@{revision}"), ignore)


async def test_the_beginning_of_two_commits_is_refused_and_both_are_named(
    house: House, control: CacheControl
) -> None:
    model = await pull(house)
    twin = model.commit[:20] + "0123456789abcdef0123"
    shutil.copytree(model.path, model.path.with_name(twin), symlinks=True)
    ref = ModelRef.parse(f"{NAME}@{model.commit[:12]}")
    for act in (control.verify(ref, ignore), control.adopt(ref, True), control.remove([ref], False)):
        with pytest.raises(Invalid, match=rf"(?=.*{model.commit})(?=.*{twin}).*more of its digits"):
            await act
    [verified] = await control.verify(ModelRef.parse(f"{NAME}@{model.commit[:21]}"), ignore)

    assert verified.commit == model.commit


async def test_a_branch_that_looks_like_a_commit_is_the_branch(house: House, control: CacheControl) -> None:
    first = await pull(house)
    commit(house, {"config.json": b"{}"}, branch=first.commit[:8])
    other = await pull(house, f"{NAME}@{first.commit[:8]}")
    [verified] = await control.verify(ModelRef.parse(f"{NAME}@{first.commit[:8]}"), ignore)

    assert verified.commit == other.commit != first.commit


async def test_a_lost_snapshot_is_found_by_the_beginning_of_its_commit(
    house: House, control: CacheControl
) -> None:
    model = await pull(house)
    shutil.rmtree(model.path)
    plan = await control.remove([ModelRef.parse(f"{NAME}@{model.commit[:7]}")], is_dry_run=False)

    assert [removal.commit for removal in plan.removals] == [model.commit]
