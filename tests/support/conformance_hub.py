# SPDX-License-Identifier: Apache-2.0
"""The Hub that the conformance cases run against: every kind of repository, and what is known of it."""

from __future__ import annotations

import json
import random
import shutil

from modelexpress.testing.hub import HubOptions, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_files, tiny_model

MEMBER, STRANGER, UNKNOWN = "hf_member", "hf_stranger", "hf_unknown"
PAGE_SIZE = 3
LARGE_BYTES = 12 * 1024 * 1024 + 77

FACTS = {
    "model": "demo/tiny",
    "lfs": "model.safetensors",
    "small": "config.json",
    "empty": "empty.txt",
    "odd": "onnx/deep/er/extra file ü.txt",
    "folder": "onnx",
    "branch": "dev",
    "slashed": "dev/x",
    "tag": "v1.0",
    "pull": "refs/pr/1",
    "missing": "demo/nothing",
    "renamed": "demo/old",
    "renamed_whole": "demo/old",
    "renamed_file": "model.safetensors",
    "bare": "bare",
    "hollow": "demo/hollow",
    "xet": "demo/xet",
    "xet_file": "model.safetensors",
    "large": "demo/large",
    "large_file": "weights.bin",
    "private": "demo/private",
    "gated": "demo/gated",
    "guarded_file": "model.safetensors",
    "member": MEMBER,
    "stranger": STRANGER,
    "unknown": UNKNOWN,
    "words": "demo/words",
    "words_tag": "first",
}
# Known to a Hub that has kinds of repositories, lists of them, and a log of commits.
FURTHER_FACTS = {
    "author": "demo",
    "commit_log": "main",
    "fields": "sha siblings gated",
    "dataset": "demo/rows",
    "dataset_file": "data/train.csv",
    "dataset_tag": "v1",
    "private_dataset": "demo/secret-rows",
    "space": "demo/app",
}


def make_hub(tokenizer: bytes) -> tuple[LocalHub, dict[str, str]]:
    """A Hub that is not yet running, and its facts. Made twice it is the same twice."""
    model = _model()
    hub = LocalHub(
        [model, *_guarded(), *_oddities(), _words(tokenizer), *_kinds()], HubOptions(page_size=PAGE_SIZE)
    )
    hub.rename("demo/old", "demo/new")
    hub.grant(MEMBER, "demo/private", "demo/gated", "datasets/demo/secret-rows")
    hub.grant(STRANGER)
    tools = {"curl": curl} if (curl := shutil.which("curl")) else {}
    return hub, {**FACTS, **FURTHER_FACTS, **tools, "commit": model.tags["v1.0"]}


def make_other_hub(tokenizer: bytes) -> LocalHub:
    """One that is alike but for a file, a tag, a gate and a private repository: comparing must show it."""
    hub, _ = make_hub(tokenizer)
    model = _model()
    model.commit({"README.md": b"another one\n"})
    del model.tags["v1.0"]
    hub.add(model)
    hub.add(_tiny("demo/gated"))
    hub.remove("demo/private")
    return hub


def _model() -> Repository:
    model = tiny_model("demo/tiny")
    first = model.branches["main"]
    model.tags["v1.0"] = model.branches["dev/x"] = model.branches["dev"] = first
    model.commit({"dev.txt": b"on the branch\n"}, branch="dev")
    model.commit({"config.json": b'{"model_type": "llama", "seed": 1}'}, branch="dev/x")
    model.pull_requests["refs/pr/1"] = model.commit({"config.json": b'{"proposed": true}'}, branch="proposed")
    del model.branches["proposed"]
    model.commit({"README.md": b"# tiny, again\n", "onnx/notes.txt": b"more\n"}, delete=["figure.png"])
    return model


def _tiny(name: str, seed: int = 2, **options: bool) -> Repository:
    repository = Repository(name, **options)
    repository.commit(tiny_files(seed))
    return repository


def _guarded() -> list[Repository]:
    return [_tiny("demo/private", is_private=True), _tiny("demo/gated", is_gated=True)]


def _oddities() -> list[Repository]:
    hollow, large = Repository("demo/hollow"), Repository("demo/large")
    hollow.commit({})
    large.commit({"weights.bin": random.Random(7).randbytes(LARGE_BYTES)})
    return [_tiny("demo/old", 3), _tiny("bare", 4), _tiny("demo/xet", 5, has_xet=True), hollow, large]


def _words(tokenizer: bytes) -> Repository:
    words = Repository("demo/words")
    config = {"model_type": "llama", "hidden_size": 64, "vocab_size": 4}
    how = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    files = {"config.json": json.dumps(config).encode(), "tokenizer.json": tokenizer}
    words.tags["first"] = words.commit({**files, "tokenizer_config.json": json.dumps(how).encode()})
    words.commit({"README.md": b"# words\n", "chat_template.jinja": b"{{ messages }}"})
    return words


def _kinds() -> list[Repository]:
    rows = "number,square\n" + "".join(f"{n},{n * n}\n" for n in range(500))
    found = []
    for name, is_private in (("datasets/demo/rows", False), ("datasets/demo/secret-rows", True)):
        dataset = Repository(name, is_private=is_private)
        files = {"data/train.csv": rows.encode(), "data/test.csv": b"number,square\n1,1\n"}
        dataset.tags["v1"] = dataset.commit({**files, "README.md": b"# rows\n", "shards/0.bin": bytes(99)})
        dataset.commit({"README.md": b"# rows, again\n"})
        found.append(dataset)
    space = Repository("spaces/demo/app")
    space.commit(
        {"README.md": b"---\nsdk: static\n---\n", "index.html": b"<p>hello\n", "static/a.png": b"png"}
    )
    return [*found, space]
