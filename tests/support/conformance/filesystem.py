# SPDX-License-Identifier: Apache-2.0
"""HfFileSystem, as dataset and table libraries read through it."""

from __future__ import annotations

import huggingface_hub as hub
from tests.support.conformance.registry import Place, case


def mount(at: Place, caller: str = "") -> hub.HfFileSystem:
    # Without a cache of instances every case asks anew.
    return hub.HfFileSystem(token=at.token(caller), skip_instance_cache=True, use_listings_cache=False)


@case("model")
def mounted_ls(at: Place) -> object:
    return mount(at).ls(at["model"], detail=True)


@case("model", "tag", "folder")
def mounted_ls_of_a_folder_at_a_tag(at: Place) -> object:
    return mount(at).ls(f"{at['model']}@{at['tag']}/{at['folder']}", detail=False)


@case("model")
def mounted_find(at: Place) -> object:
    return mount(at).find(at["model"], detail=True)


@case("model")
def mounted_glob(at: Place) -> object:
    return mount(at).glob(f"{at['model']}/**/*.json")


@case("model", "odd", "lfs")
def mounted_info(at: Place) -> object:
    mounted = mount(at)
    found = [mounted.info(f"{at['model']}/{at[file]}") for file in ("odd", "lfs")]
    return [found, mounted.exists(f"{at['model']}/nothing.bin"), mounted.isdir(at["model"])]


@case("model", "lfs")
def mounted_byte_ranges(at: Place) -> object:
    path = f"{at['model']}/{at['lfs']}"
    with mount(at).open(path, "rb", block_size=4096) as file:
        begin = file.read(10)
        file.seek(5000)
        middle = file.read(90)
        file.seek(-50, 2)
        return [begin, middle, file.read(), file.size]


@case("model", "lfs", "small")
def mounted_cat(at: Place) -> object:
    mounted, lfs = mount(at), f"{at['model']}/{at['lfs']}"
    return [mounted.cat_file(lfs, start=10, end=100), mounted.read_bytes(f"{at['model']}/{at['small']}")]


@case("model", "lfs")
def mounted_get_file(at: Place) -> object:
    return mount(at).get_file(f"{at['model']}/{at['lfs']}", str(at.folder / "file"))


@case("model")
def mounted_missing_file(at: Place) -> object:
    try:
        return mount(at).cat_file(f"{at['model']}/nothing.bin")
    except FileNotFoundError as error:
        return type(error).__name__


@case("private", "guarded_file", "member")
def mounted_private(at: Place) -> object:
    path = f"{at['private']}/{at['guarded_file']}"
    return [mount(at, "member").read_bytes(path), mount(at).exists(path)]
