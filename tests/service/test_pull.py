# SPDX-License-Identifier: Apache-2.0
"""The main job: pulled once, kept, proven, handed on."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from huggingface_hub import snapshot_download
from tests.support.caches import requested_files
from tests.support.house import House, open_house, tree

from modelexpress.client import Strategy, Transfer
from modelexpress.domain.errors import Cancelled, Corrupt, Forbidden, NotFound, Unauthenticated, Unreachable
from modelexpress.domain.refs import ModelRef
from modelexpress.domain.selection import Selection, Weights
from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import sharded_files, tiny_files, tiny_model

NAME = "demo/tiny"


def repository_tree(root: Path, name: str = NAME) -> dict[str, bytes | str]:
    found = tree(root / ("models--" + name.replace("/", "--")))
    return {
        path: content
        for path, content in found.items()
        if path.split("/")[0] in ("blobs", "snapshots", "refs")
    }


async def hub_tree(
    hub: LocalHub, root: Path, name: str = NAME, **arguments: object
) -> dict[str, bytes | str]:
    os.environ["HF_HUB_DISABLE_XET"] = "1"
    await asyncio.to_thread(
        snapshot_download, name, cache_dir=root, endpoint=hub.endpoint, token=False, **arguments
    )
    return repository_tree(root, name)


async def test_a_pulled_snapshot_is_the_one_that_huggingface_hub_makes(house: House, tmp_path: Path) -> None:
    async with house.client(tmp_path / "mine") as client:
        await client.pull(NAME)
    expected = await hub_tree(house.hub, tmp_path / "theirs")

    assert repository_tree(house.root) == expected
    assert repository_tree(tmp_path / "mine") == expected


async def test_several_revisions_stand_side_by_side_as_huggingface_hub_has_them(
    house: House, tmp_path: Path
) -> None:
    repository = Repository("demo/many")
    first = repository.commit(tiny_files(1))
    repository.tags["v1.0"] = first
    repository.branches["dev/x"] = first
    repository.pull_requests["refs/pr/1"] = first
    repository.commit(sharded_files(3, 4000), delete=["model.safetensors"])
    house.hub.add(repository)
    revisions = [None, "v1.0", "dev/x", "refs/pr/1", first]
    async with house.client(tmp_path / "mine") as client:
        for revision in revisions:
            await client.pull(ModelRef.parse("demo/many", revision=revision))
    for revision in revisions:
        expected = await hub_tree(house.hub, tmp_path / "theirs", "demo/many", revision=revision)

    assert repository_tree(house.root, "demo/many") == expected
    assert repository_tree(tmp_path / "mine", "demo/many") == expected


async def test_many_small_files_are_all_there(house: House, tmp_path: Path) -> None:
    repository = Repository("demo/small")
    repository.commit({f"d{n % 7}/f{n}.txt": b"%d" % n for n in range(300)})
    house.hub.add(repository)
    async with house.client(tmp_path / "mine") as client:
        await client.pull("demo/small")

    assert repository_tree(house.root, "demo/small") == await hub_tree(
        house.hub, tmp_path / "t", "demo/small"
    )


async def test_huggingface_hub_loads_it_offline(house: House, tmp_path: Path) -> None:
    async with house.client(tmp_path / "mine", is_shared=True) as client:
        model = await client.pull(NAME)
    code = "import sys, huggingface_hub as h; print(h.snapshot_download(sys.argv[1], cache_dir=sys.argv[2]))"
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", code, NAME, house.root],
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )

    assert model.transfer is Transfer.SHARED
    assert done.stdout.strip() == str(model.path)


async def test_files_can_be_read_by_another_user(house: House, tmp_path: Path) -> None:
    async with house.client(tmp_path / "mine") as client:
        await client.pull(NAME)
    mask = os.umask(0)
    os.umask(mask)
    for path in house.root.glob("models--*/**/*"):
        wanted = (0o777 if path.is_dir() else 0o666) & ~mask
        assert path.is_symlink() or path.stat().st_mode & 0o777 == wanted


async def test_a_warm_pull_fetches_nothing_and_a_pinned_one_asks_nothing(
    house: House, tmp_path: Path
) -> None:
    async with house.client(tmp_path / "mine", is_shared=True) as client:
        cold = await client.pull(NAME)
        house.hub.log.clear()
        warm = await client.pull(NAME)
        assert len(house.hub.log.requests) == 1  # what main means now
        house.hub.log.clear()
        pinned = await client.pull(ModelRef.parse(NAME, revision=cold.commit))

    assert not cold.was_hit and warm.was_hit and pinned.was_hit
    assert cold.path == warm.path == pinned.path
    assert house.hub.log.requests == []


async def test_thirty_two_clients_cost_the_origin_one_download(house: House, tmp_path: Path) -> None:
    held = house.hub.faults.add(Fault("hold", "body", "model.safetensors", after=10_000))

    async def pull(number: int) -> dict[str, bytes | str]:
        async with house.client(tmp_path / f"c{number}") as client:
            model = await client.pull(NAME)
            return tree(model.path.parents[1] / "blobs")

    waiting = [asyncio.create_task(pull(number)) for number in range(32)]
    while not held.applied or len(house.hub.log.of("api")) < 1:
        await asyncio.sleep(0.01)
    held.release()
    trees = await asyncio.gather(*waiting)

    assert all(found == trees[0] for found in trees)
    bodies = Counter(request.file for request in house.hub.log.of("body"))
    assert set(bodies) == requested_files() and set(bodies.values()) == {1}


async def test_the_one_who_started_may_leave_and_the_rest_succeed(house: House, tmp_path: Path) -> None:
    held = house.hub.faults.add(Fault("hold", "body", "model.safetensors", after=10_000))
    starter = asyncio.create_task(_pull(house, tmp_path / "starter"))
    while not held.applied:
        await asyncio.sleep(0.01)
    others = [asyncio.create_task(_pull(house, tmp_path / f"o{number}")) for number in range(5)]
    await asyncio.sleep(0.05)

    starter.cancel()
    await asyncio.gather(starter, return_exceptions=True)
    held.release()

    assert len({path.name for path in await asyncio.gather(*others)}) == 1
    assert len(house.hub.log.of("body", "model.safetensors")) == 1


async def _pull(house: House, root: Path) -> Path:
    async with house.client(root) as client:
        return (await client.pull(NAME)).path


@pytest.mark.parametrize(
    "fault",
    [
        Fault("status", "any", status=429, headers={"Retry-After": "0"}, times=20, chance=0.5),
        Fault("status", "any", status=429, headers={"RateLimit": '"api";r=0;t=0'}, times=20, chance=0.5),
        Fault("status", "any", status=503, times=20, chance=0.5),
        Fault("reset", "any", times=10, chance=0.5),
        Fault("reset", "body", times=3, after=20_000),
        Fault("truncate", "body", times=3, after=20_000),
        Fault("ignore_range", "body", times=None),
        Fault("wrong_bytes", "body", "model.safetensors", after=50_000),
        Fault("wrong_bytes", "body", "README.md", after=1),
        Fault("throttle", "body", times=None, rate=400_000),
    ],
    ids=lambda fault: f"{fault.action}-{fault.status}-{fault.after}",
)
async def test_what_goes_wrong_on_the_way_never_reaches_a_client(
    house: House, tmp_path: Path, fault: Fault
) -> None:
    house.hub.faults.add(fault)
    async with house.client(tmp_path / "mine") as client:
        await client.pull(NAME)

    house.hub.faults.clear()
    assert fault.applied > 0
    assert repository_tree(house.root) == await hub_tree(house.hub, tmp_path / "theirs")


async def test_a_range_answered_with_the_whole_file_is_skipped_to_the_right_place(
    house: House, tmp_path: Path
) -> None:
    house.hub.faults.add(Fault("reset", "body", "model.safetensors", after=70_000))
    house.hub.faults.add(Fault("ignore_range", "body", "model.safetensors", times=None))
    async with house.client(tmp_path / "mine") as client:
        await client.pull(NAME)

    house.hub.faults.clear()
    ranges = [request.range for request in house.hub.log.of("body", "model.safetensors")]
    assert len(ranges) == 2 and ranges[1] is not None
    assert repository_tree(house.root) == await hub_tree(house.hub, tmp_path / "theirs")


async def test_bytes_that_stay_wrong_never_reach_the_cache(house: House, tmp_path: Path) -> None:
    house.hub.faults.add(Fault("wrong_bytes", "body", "model.safetensors", after=5, times=None))
    async with house.client(tmp_path / "mine") as client:
        with pytest.raises(Corrupt, match=r"model\.safetensors"):
            await client.pull(NAME)

    assert not list(house.root.glob("models--*/snapshots")) and not list(
        (house.root / ".mx/partials").iterdir()
    )
    house.hub.faults.clear()
    async with house.client(tmp_path / "mine") as client:
        assert not (await client.pull(NAME)).was_hit


async def test_a_missing_readme_is_left_out_and_a_missing_weight_is_named(
    house: House, tmp_path: Path
) -> None:
    gone = {"status": 404, "headers": {"X-Error-Code": "EntryNotFound"}, "times": None}
    house.hub.faults.add(Fault("status", "resolve", "README.md", **gone))  # type: ignore[arg-type]
    async with house.client(tmp_path / "mine") as client:
        model = await client.pull(NAME)
        assert model.missing == ("README.md",)
        assert not (model.path / "README.md").exists() and (model.path / "model.safetensors").exists()

        house.hub.add(tiny_model("demo/other"))
        house.hub.faults.add(Fault("status", "resolve", "*.safetensors", **gone))  # type: ignore[arg-type]
        with pytest.raises(NotFound, match=r"model\.safetensors"):
            await client.pull("demo/other")


async def test_every_waiter_hears_the_real_cause(house: House, tmp_path: Path) -> None:
    house.hub.faults.add(Fault("wrong_bytes", "body", "model.safetensors", after=5, times=None))
    ended = await asyncio.gather(
        *(_pull(house, tmp_path / f"c{n}") for n in range(8)), return_exceptions=True
    )

    assert all(isinstance(error, Corrupt) and "model.safetensors" in str(error) for error in ended)


async def test_gated_and_private_models_need_a_token_that_may(house: House, tmp_path: Path) -> None:
    for name, kind in (("demo/private", "is_private"), ("demo/gated", "is_gated")):
        repository = Repository(name, **{kind: True})  # type: ignore[arg-type]
        repository.commit(tiny_files())
        house.hub.add(repository)
        house.hub.grant("hf_stranger")
        house.hub.grant("hf_member", name)
        async with house.client(tmp_path / "none") as client:
            with pytest.raises((Unauthenticated, Forbidden)):
                await client.pull(name)
        async with house.client(tmp_path / "stranger", hub_token="hf_stranger") as client:
            with pytest.raises(Forbidden):
                await client.pull(name)
        async with house.client(tmp_path / "member", hub_token="hf_member") as client:
            assert (await client.pull(name)).path.exists()
        # What one caller's token brought is not for those who have none, or one that may not.
        async with house.client(tmp_path / "none", is_shared=True) as client:
            with pytest.raises(Forbidden):
                await client.pull(name)


async def test_an_unknown_model_revision_and_commit_are_told_apart(house: House, tmp_path: Path) -> None:
    async with house.client(tmp_path / "mine") as client:
        with pytest.raises(Unauthenticated, match="does not exist"):
            await client.pull("demo/nothing")
        with pytest.raises(NotFound, match="revision"):
            await client.pull(f"{NAME}@nope")
        with pytest.raises(NotFound):
            await client.pull(f"{NAME}@{'0' * 40}")

    assert not list(house.root.glob("models--*"))


async def test_selections_are_their_own_records_and_share_their_files(house: House, tmp_path: Path) -> None:
    async with house.client(tmp_path / "mine") as client:
        light = await client.pull(NAME, Selection(Weights.NONE))
        assert not (light.path / "model.safetensors").exists() and (light.path / "config.json").exists()
        fetched = len(house.hub.log.of("body"))
        full = await client.pull(NAME)
        assert (full.path / "model.safetensors").exists() and full.path == light.path
        assert len(house.hub.log.of("body")) == len(requested_files()) > fetched
        one = await client.pull(NAME, Selection(include=("onnx/*",), exclude=("*.onnx",)))

    assert not one.was_hit or one.path == full.path
    assert repository_tree(house.root) == await hub_tree(house.hub, tmp_path / "theirs")


async def test_a_moved_branch_moves_no_byte_that_is_here(house: House, tmp_path: Path) -> None:
    async with house.client(tmp_path / "mine", is_shared=True) as client:
        before = await client.pull(NAME)
        repository = house.hub._repositories[NAME]
        house.hub.log.clear()
        repository.commit({"config.json": b"{}"})
        after = await client.pull(NAME)

    assert before.commit != after.commit and before.path.exists()
    assert [request.file for request in house.hub.log.of("body")] == ["config.json"]


async def test_in_an_outage_what_is_here_is_served_marked_stale(house: House, tmp_path: Path) -> None:
    async with house.client(tmp_path / "mine", is_shared=True) as client:
        before = await client.pull(NAME)
        house.hub.faults.add(Fault("status", "any", status=503, times=None))
        after = await client.pull(NAME)
        with pytest.raises(Unreachable):
            await client.pull("demo/other")

    assert after.is_stale and after.was_hit and after.path == before.path


async def test_a_record_whose_files_are_gone_heals_itself(house: House, tmp_path: Path) -> None:
    async with house.client(tmp_path / "mine", is_shared=True) as client:
        model = await client.pull(NAME)
        expected = repository_tree(house.root)
        os.unlink(os.path.realpath(model.path / "model.safetensors"))
        (model.path / "config.json").unlink()
        again = await client.pull(NAME)

    assert not again.was_hit and repository_tree(house.root) == expected


async def test_deleting_a_model_takes_its_files_and_stops_its_pull(house: House, tmp_path: Path) -> None:
    held = house.hub.faults.add(Fault("hold", "body", "model.safetensors", after=10_000))
    pulling = asyncio.create_task(_pull(house, tmp_path / "mine"))
    while not held.applied:
        await asyncio.sleep(0.01)
    async with house.client(tmp_path / "other") as client:
        assert "removed from registry" in await client.delete(NAME)
        with pytest.raises(Cancelled, match="removed"):
            await pulling
        held.release()
        await client.pull(NAME)
        said = await client.delete(NAME)
        assert "(1 record(s))" in said and not list(house.root.glob("models--*"))
        assert "(0 record(s))" in await client.delete(NAME)


async def test_a_cache_of_another_tool_is_served_with_no_byte_fetched(house: House, tmp_path: Path) -> None:
    expected = await hub_tree(house.hub, house.root)
    house.hub.log.clear()
    async with house.client(tmp_path / "mine", is_shared=True) as client:
        model = await client.pull(NAME)
        assert house.hub.log.of("body") == [] and model.path.exists()
        assert "(1 record(s)); 0 files, 0 bytes freed" in await client.delete(NAME)

    assert repository_tree(house.root) == expected


async def test_a_damaged_file_of_another_tool_is_not_served(house: House, tmp_path: Path) -> None:
    expected = await hub_tree(house.hub, house.root)
    blob = Path(os.path.realpath(next(house.root.glob("models--*/snapshots/*/model.safetensors"))))
    content = bytearray(blob.read_bytes())
    content[1000] ^= 1
    blob.write_bytes(content)
    house.hub.log.clear()
    async with house.client(tmp_path / "mine", is_shared=True) as client:
        await client.pull(NAME)

    assert [request.file for request in house.hub.log.of("body")] == ["model.safetensors"]
    assert repository_tree(house.root) == expected


async def test_the_direct_strategy_needs_no_server(hub: LocalHub, tmp_path: Path) -> None:
    async with open_house(hub, tmp_path) as house:
        client = house.client(tmp_path / "mine")
    async with client:
        with pytest.raises(Unreachable, match="no ModelExpress server"):
            await client.pull(NAME, strategy=Strategy.SERVER_ONLY)


async def test_every_outgoing_request_names_this_instance(house: House, tmp_path: Path) -> None:
    await _pull(house, tmp_path / "mine")

    assert all("modelexpress-" in (request.via or "") for request in house.hub.log.requests)
