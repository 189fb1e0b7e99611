# SPDX-License-Identifier: Apache-2.0
"""The command line against a real server and a real Hub, as a person types it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from tests.support.house import House, open_house, tree_at_rest
from tests.support.shell import BIN, Shell

from modelexpress.testing.hub import Fault, LocalHub, Repository
from modelexpress.testing.hub.models import tiny_model

NAME = "demo/tiny"
NOWHERE = "127.0.0.1:9"  # the discard port: nobody listens


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    async with LocalHub([tiny_model(NAME)]) as hub, open_house(hub, tmp_path) as house:
        yield house


@pytest.fixture
def shell(house: House, tmp_path: Path) -> Shell:
    """A person on another machine than the server's."""
    env = {"MODEL_EXPRESS_ENDPOINT": house.endpoint, "MODEL_EXPRESS_NO_SHARED_STORAGE": "true"}
    return Shell(tmp_path, {**_hub_env(house.hub), **env})


@pytest.fixture
def alone(tmp_path: Path) -> Shell:
    """A person without a server."""
    return Shell(tmp_path, {})


def _hub_env(hub: LocalHub) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.endpoint, "MODEL_EXPRESS_ORIGIN_REDIRECT_HOSTS": "localhost,127.0.0.1"}


async def test_pull_prints_the_path_alone_so_that_an_engine_can_take_it(
    house: House, shell: Shell, tmp_path: Path
) -> None:
    near = await shell.run("pull", NAME, MODEL_EXPRESS_NO_SHARED_STORAGE="false")
    far = await shell.run("pull", NAME, "--cache-path", "mine")

    assert (near.status, far.status) == (0, 0)
    assert near.out.count("\n") == far.out.count("\n") == 1
    assert Path(near.out.strip()).is_relative_to(house.root)
    assert Path(far.out.strip()).is_relative_to(tmp_path / "mine")
    assert {p.name for p in Path(far.out.strip()).iterdir()} == {
        p.name for p in Path(near.out.strip()).iterdir()
    }
    assert "resolving" in far.err and "\r" not in far.err + near.err


async def test_pull_takes_patterns_and_a_revision(house: House, shell: Shell) -> None:
    repository = Repository("demo/two")
    first = repository.commit({"config.json": b"{}", "a.bin": b"a", "model.safetensors": b"s"})
    repository.commit({"config.json": b'{"x": 1}'})
    house.hub.add(repository)
    chosen = await shell.run(
        "pull", f"demo/two@{first}", "--exclude", "*.bin", "--include", "*.json", "--include=*.s*"
    )
    sparse = await shell.run("pull", "demo/two", "--weights", "none", "-f", "json")

    assert sorted(p.name for p in Path(chosen.out.strip()).iterdir()) == ["config.json", "model.safetensors"]
    assert sparse.document["selection"] == "none"
    assert [p.name for p in Path(sparse.document["path"]).iterdir()] == ["config.json"]


async def test_one_json_document_whatever_happens(shell: Shell) -> None:
    good = await shell.run("model", "download", NAME, "--format", "json")
    bad = await shell.run("-f", "json", "model", "download", "demo/none", "-s", "server-only")

    assert good.status == 0 and bad.status == 1
    expected = {"success": True, "model_name": NAME, "provider": "hugging-face", "strategy": "SmartFallback"}
    assert expected.items() <= good.document.items()
    assert {"message", "resolved_revision", "path"} <= good.document.keys()
    named = {
        "success": False,
        "model_name": "demo/none",
        "provider": "hugging-face",
        "strategy": "ServerOnly",
    }
    assert named.items() <= bad.document.items()
    assert "demo/none" in bad.document["error"] and bad.document["code"] == "Unauthenticated"
    assert list(good.document) == sorted(good.document)


async def test_download_says_what_it_did(shell: Shell) -> None:
    said = await shell.run("model", "download", NAME, "--revision", "main", program="modelexpress-cli")

    lines = said.out.splitlines()
    assert lines[0] == "Model Download"
    assert "  Revision: main" in lines
    assert any(line.startswith("✅ SUCCESS") for line in lines)
    assert Path(lines[-1].removeprefix("  Path: ")).is_dir()


async def test_an_unknown_server_is_an_error_or_a_way_round(house: House, shell: Shell) -> None:
    failed = await shell.run("pull", NAME, "-s", "server-only", "-e", NOWHERE)
    direct = await shell.run("pull", NAME, "-e", NOWHERE, "-f", "json")

    assert failed.status == 1 and NOWHERE in failed.err and not failed.out
    assert direct.document["transfer"] == "direct"


async def test_health_for_people_and_programs(house: House, shell: Shell) -> None:
    human, plain, pretty = await asyncio.gather(
        shell.run("health"), shell.run("health", "-f", "json"), shell.run("--format", "json-pretty", "health")
    )
    gone = await shell.run("health", "-e", NOWHERE, "-t", "2")
    silent = await shell.run("-q", "health", "-e", NOWHERE)

    assert human.out.splitlines()[0] == "Server Health Status" and "ok" in human.out
    assert plain.document.keys() == pretty.document.keys() == {"status", "uptime", "version"}
    assert plain.out.count("\n") == 1 and pretty.out.count("\n") == 5
    assert (gone.status, silent.status) == (1, 1)
    assert gone.err.startswith("Error: ") and silent.err == silent.out == ""


async def test_an_api_call_sends_its_payload_from_where_it_is_said(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "payload.json").write_text('{"a": 1}')
    words, piped, filed, bare = await asyncio.gather(
        shell.run("api", "send", "ping", "-p", '{"a": 1}', "--format", "json"),
        shell.run("api", "send", "ping", "-p", "-", "--format=json", stdin='{"a": 1}'),
        shell.run("-f", "json", "api", "send", "ping", "-f", "payload.json"),
        shell.run("api", "send", "ping"),
    )

    assert words.document == piped.document == filed.document == {"message": "pong"}
    assert bare.out.splitlines() == ["API Request", "  Action: ping", "Response:", "  message: pong"]


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["ping", "-p", "[1]"], 2),
        (["ping", "-p", "{"], 2),
        (["ping", "-p", "{}", "-f", "payload.json"], 2),
        (["ping", "-f", "missing.json"], 1),
        (["ping", "-f", "binary"], 2),
        (["no-such-action"], 1),
        (["ping", "-p", "[" * 100_000], 2),
    ],
)
async def test_a_payload_that_cannot_be_sent_is_refused(shell: Shell, words: list[str], status: int) -> None:
    (shell.folder / "binary").write_bytes(b"\xff\xfe")
    (shell.folder / "payload.json").write_text("{}")
    said = await shell.run("api", "send", *words)

    assert (said.status, said.out) == (status, "")
    assert "Error" in said.err and "Traceback" not in said.err


async def test_the_local_commands_tell_what_is_here(house: House, shell: Shell) -> None:
    empty = await shell.run("model", "list")
    await shell.run("pull", NAME)
    listed, counted, state, human = await asyncio.gather(
        shell.run("model", "list", "--detailed", "-f", "json"),
        shell.run("model", "stats", "--detailed", "-f", "json"),
        shell.run("model", "status", "-f", "json"),
        shell.run("model", "list", "--detailed"),
    )

    assert empty.out.strip() == "No models found in storage."
    (model,) = listed.document["models"]
    assert (model["provider"], model["name"]) == ("hugging-face", NAME)
    assert model["size"] == sum(p.stat().st_size for p in Path(model["path"]).rglob("*") if p.is_file())
    assert counted.document["detailed_models"] == [model]
    assert listed.document["total_size"] == counted.document["total_size"] == model["formatted_size"]
    assert state.document["server_available"] and state.document["storage_accessible"]
    assert state.document["total_models"] == 1 and state.document["server_endpoint"] == house.endpoint
    assert f'[hugging-face] {NAME} ({model["formatted_size"]}) "{model["path"]}"' in human.out


async def test_what_two_revisions_share_is_counted_once(house: House, shell: Shell) -> None:
    repository = Repository("demo/two")
    first = repository.commit({"config.json": b"{}", "model.safetensors": b"s" * 5000})
    repository.commit({"config.json": b'{"x": 1}'})
    house.hub.add(repository)
    await shell.run("pull", f"demo/two@{first}")
    pulled = await shell.run("pull", "demo/two")
    here = await shell.run("model", "stats", "--detailed", "-f", "json")
    there = await shell.run("cache", "ls", "-f", "json")

    blobs = Path(pulled.out.strip()).parents[1] / "blobs"
    size = sum(path.stat().st_size for path in blobs.iterdir())
    assert here.document["detailed_models"][0]["size"] == there.document["total_bytes"] == size


async def test_status_and_clear_work_without_a_server(house: House, shell: Shell) -> None:
    await shell.run("pull", NAME)
    status = await shell.run("model", "status", "-e", NOWHERE, "-f", "json")
    cleared = await shell.run("model", "clear", NAME, "-e", NOWHERE, "-f", "json")
    again = await shell.run("model", "clear", NAME, "-f", "json")
    listed = await shell.run("model", "list", "-f", "json")

    assert status.status == 0 and status.document["server_available"] is False
    assert cleared.status == again.status == 0
    assert cleared.document["registry_cleared"] is False and NOWHERE in cleared.document["registry_warning"]
    assert again.document["registry_cleared"] is True and again.document["registry_warning"] is None
    assert listed.document["total_models"] == 0
    assert not list(house.root.glob("models--*/snapshots/*"))


async def test_clear_all_asks_a_person_and_never_a_program(house: House, shell: Shell) -> None:
    await shell.run("pull", NAME)
    (shell.folder / "home/.cache/huggingface/hub/mine.txt").write_text("not a model")
    declined = await shell.run("model", "clear-all", stdin="n\n")
    kept = await shell.run("model", "list", "-f", "json")
    done = await shell.run("model", "clear-all", "-f", "json")
    left = await shell.run("model", "list", "-f", "json")

    assert declined.status == 0 and declined.out == ""
    assert kept.document["total_models"] == 1 and left.document["total_models"] == 0
    assert (done.document["registry_records_cleared"], done.document["registry_records_failed"]) == (1, 0)
    assert (shell.folder / "home/.cache/huggingface/hub/mine.txt").exists()


async def test_the_cache_commands_act_on_the_server_when_one_is_named_and_say_so(
    house: House, shell: Shell, alone: Shell
) -> None:
    await shell.run("pull", NAME, "--cache-path", "mine")
    there = await shell.run("cache", "ls", "-f", "json")
    here = await alone.run("cache", "ls", "-f", "json", "--cache-path", "mine")
    human = await alone.run("cache", "ls", "--cache-path", "mine")

    assert there.document["where"] == f"cache of server {house.endpoint}" == there.err.strip()
    assert here.document["where"] == f"cache directory {shell.folder / 'mine'}" == here.err.strip()
    for said in (there, here):
        (snapshot,) = said.document["snapshots"]
        assert (snapshot["name"], snapshot["refs"], snapshot["state"]) == (NAME, ["main"], "ours")
    heads, row, total = human.out.splitlines()
    assert heads.split() == ["model", "commit", "refs", "on", "disk", "shared", "files", "used", "state"]
    assert row.startswith(NAME) and total.startswith("1 snapshots")


async def test_a_dry_run_shows_what_rm_does_and_does_nothing(house: House, shell: Shell) -> None:
    await shell.run("pull", NAME)
    before = tree_at_rest(house.root)
    planned = await shell.run("cache", "rm", NAME, "--dry-run", "-f", "json")
    unasked = await shell.run("cache", "rm", NAME)
    assert tree_at_rest(house.root).keys() == before.keys()
    done = await shell.run("cache", "rm", NAME, "-y", "-f", "json")
    missing = await shell.run("cache", "rm", NAME, "-y")

    assert unasked.status == 2 and "--yes" in unasked.err
    assert planned.document["removals"] == done.document["removals"] != []
    assert (planned.document["is_done"], done.document["is_done"]) == (False, True)
    assert missing.status == 1 and NAME in missing.err
    assert not list(house.root.glob("models--*/blobs/*"))


async def test_verify_and_validate_find_a_flipped_byte(house: House, shell: Shell, alone: Shell) -> None:
    pulled = await shell.run("pull", NAME)
    sound = await alone.run("cache", "verify", "-f", "json")
    weights = (Path(pulled.out.strip()) / "model.safetensors").resolve()
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.chmod(0o644)
    weights.write_bytes(content)
    damaged = await alone.run("cache", "verify", NAME)
    again = await alone.run("pull", NAME, "--endpoint", house.endpoint, "--no-shared-storage")
    validated = await alone.run("model", "validate", NAME, "-f", "json")
    unknown = await alone.run("model", "validate", "demo/none", "-f", "json")

    assert sound.status == 0 and sound.document["verified"][0]["is_sound"]
    assert damaged.status == 1 and "model.safetensors" in damaged.out and "❌" in damaged.out
    assert again.status == validated.status == 0
    assert validated.document["exists"] and validated.document["path"] == pulled.out.strip()
    assert unknown.status == 1 and unknown.document["exists"] is False


async def test_prune_and_adopt_say_when_there_is_nothing_to_do(shell: Shell) -> None:
    pruned, adopted = await asyncio.gather(shell.run("cache", "prune", "-y"), shell.run("cache", "adopt"))

    assert (pruned.status, pruned.out) == (0, "nothing to remove\n")
    assert (adopted.status, adopted.out) == (0, "nothing to adopt\n")


async def test_init_writes_what_later_commands_read(alone: Shell, tmp_path: Path) -> None:
    said = await alone.run(
        "model", "init", "--storage-path", "models", "--server-endpoint", NOWHERE, "-f", "json"
    )
    shown = await alone.run("config", "show", "--origin", "-f", "json")
    written = yaml.safe_load((tmp_path / "home/.model-express/config.yaml").read_text())

    assert said.document["success"] and said.document["storage_path"] == str(tmp_path / "models")
    assert written["local_path"] == str(tmp_path / "models")
    settings = shown.document["settings"]
    assert settings["cache.directory"]["value"] == str(tmp_path / "models")
    assert settings["connection.endpoint"]["value"] == f"http://{NOWHERE}"
    assert "config.yaml" in settings["connection.endpoint"]["origin"]


async def test_config_show_tells_where_a_value_came_from(alone: Shell, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("server:\n  port: 7000\npull:\n  weights: safetensors-first\n")
    said = await alone.run(
        "config", "show", "--origin", "-c", "my.yaml", "--log-level", "debug",
        MODEL_EXPRESS_SERVER_HOST="127.0.0.1",
    )  # fmt: skip
    origins = {line.split()[0]: line for line in said.out.splitlines()}

    assert "my.yaml:2" in origins["server.port"] and "7000" in origins["server.port"]
    assert "env MODEL_EXPRESS_SERVER_HOST" in origins["server.host"]
    assert "flag --log-level" in origins["logging.level"]
    assert origins["server.metrics_port"].endswith("default")


async def test_settings_that_cannot_be_are_refused_with_file_line_and_nearest_key(
    alone: Shell, tmp_path: Path
) -> None:
    (tmp_path / "model-express.yaml").write_text("server:\n  prot: 1\n  host: 127.0.0.1\n")
    checked = await alone.run("--validate-config", program="modelexpress-server")
    served = await alone.run("serve")
    asked = await alone.run("health", "-f", "json")

    assert (checked.status, served.status, asked.status) == (1, 1, 1)
    assert checked.err.startswith("Configuration validation failed: model-express.yaml:2: ")
    assert served.err.startswith("Configuration Error: model-express.yaml:2: ")
    for said in (checked.err, served.err, asked.document["error"]):
        assert "prot" in said and "server.port" in said


async def test_sound_settings_validate(alone: Shell, tmp_path: Path) -> None:
    made = await alone.run("-o", "out/me.yaml", program="config_gen")
    twice = await alone.run("--output", "out/me.yaml", program="config_gen")
    valid = await alone.run("serve", "--config", "out/me.yaml", "--validate-config")
    before = await alone.run("-c", "out/me.yaml", "serve", "--validate-config", "-f", "json")

    assert made.status == 0 and "out/me.yaml" in made.out
    assert twice.status == 1 and "--overwrite" in twice.err
    assert (valid.status, valid.out) == (0, "Configuration is valid ✓\n")
    assert before.document["valid"] is True


async def test_an_older_file_is_brought_into_todays_form(alone: Shell, tmp_path: Path) -> None:
    old = "server:\n  host: 127.0.0.1\n  port: 9000\n  colour: red\n"
    (tmp_path / "old.yaml").write_text(old)
    said = await alone.run("-i", "old.yaml", "--dry-run", "--show-diff", program="config_gen")
    lone = await alone.run("config", "generate", "--show-diff", "--dry-run")

    assert said.status == 0 and "port: 9000" in said.out and "colour" in said.err
    assert lone.status == 2 and "--input" in lone.err
    assert (tmp_path / "old.yaml").read_text() == old


async def test_two_names_for_different_servers_are_a_warning_that_names_both(shell: Shell) -> None:
    said = await shell.run("health", MX_SERVER_ADDRESS="other:1")

    assert said.status == 0
    assert "Warning" in said.err and "MX_SERVER_ADDRESS" in said.err and "MODEL_EXPRESS_ENDPOINT" in said.err


async def test_ctrl_c_ends_a_pull_with_130_and_leaves_nothing_half(house: House, shell: Shell) -> None:
    held = house.hub.faults.add(Fault("hold", "body", "model.safetensors", after=10_000))
    process = await shell.start("pull", NAME, "--cache-path", "mine")
    while not held.applied:
        await asyncio.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = await process.communicate()

    assert (process.returncode, out) == (130, b"")
    assert b"Traceback" not in err
    assert not list((shell.folder / "mine").glob("models--*/snapshots/*"))


async def test_a_reader_that_leaves_is_no_crash(shell: Shell) -> None:
    code = f"{BIN / 'modelexpress'} config show | head -c 1"
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", code, cwd=shell.folder, env={**os.environ, **shell.env},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, err = await process.communicate()

    assert b"Traceback" not in err and b"Exception" not in err


async def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(
    house: House, shell: Shell, tmp_path: Path
) -> None:
    house.hub.faults.add(Fault("throttle", "body", "model.safetensors", times=None, rate=150_000))
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        str(BIN / "modelexpress"), "pull", NAME, "--cache-path", "mine",
        cwd=tmp_path, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "TERM": "xterm", **shell.env},
        stdout=asyncio.subprocess.PIPE, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    seen = await asyncio.to_thread(_read_all, ours)
    out, _ = await process.communicate()

    assert process.returncode == 0 and out.count(b"\n") == 1
    assert b"\x1b[" in seen and b"downloading" in seen


def _read_all(descriptor: int) -> bytes:
    pieces = []
    try:
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
    except OSError:
        pass  # how Linux says that the other end is closed
    os.close(descriptor)
    return b"".join(pieces)


async def test_bash_completes_commands_flags_and_models(shell: Shell) -> None:
    await shell.run("pull", NAME)
    script = (await shell.run("completion", "bash")).out
    code = f"""{script}
    complete_line() {{
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _modelexpress "$1"; echo "${{COMPREPLY[@]}}"
    }}
    complete_line modelexpress ca
    complete_line modelexpress cache ''
    complete_line modelexpress cache verify demo
    complete_line modelexpress pull --str
    """
    env = {**shell.env, "PATH": f"{BIN}:{os.environ['PATH']}", "HOME": str(shell.folder / "home")}
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", code, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()

    assert (out.decode().splitlines(), err) == (
        ["cache", "ls rm prune verify adopt plan evict explain pins pin unpin", NAME, "--strategy"], b""
    )  # fmt: skip


@pytest.mark.parametrize("name", ["zsh", "fish"])
async def test_other_shells_get_a_script_too(alone: Shell, name: str) -> None:
    said = await alone.run("completion", name, program="modelexpress-cli")

    assert said.status == 0 and "_MODELEXPRESS_CLI_COMPLETE" in said.out


async def test_logs_are_json_when_asked_for(shell: Shell) -> None:
    said = await shell.run("-vv", "--log-format", "json", "pull", NAME, "-s", "direct")
    logged = [json.loads(line) for line in said.err.splitlines() if line.startswith("{")]

    assert said.status == 0 and all({"time", "level", "message"} <= event.keys() for event in logged)
    assert logged


async def test_what_stays_and_what_goes_is_shown_and_done(house: House, shell: Shell) -> None:
    await shell.run("pull", NAME, "--no-shared-storage", "--cache-path", "mine")

    pinned = await shell.run("cache", "pin", "demo/*", "--until", "7d")
    told = await shell.run("cache", "explain", NAME)
    refused = await shell.run("cache", "evict", NAME, "--yes", "-f", "json")
    listed = await shell.run("cache", "pins", "-f", "json")
    ended = await shell.run("cache", "unpin", "demo/*")
    planned = await shell.run("cache", "plan", "--for", "1PB")
    dry = await shell.run("cache", "evict", NAME, "--dry-run", "-f", "json")
    asked = await shell.run("cache", "evict", NAME)
    done = await shell.run("cache", "evict", NAME, "--yes", "-f", "json")

    assert pinned.out.splitlines()[1].startswith(f"keeps {NAME}@")
    assert "stays: pinned as demo/*" in told.out and "come free when it alone goes" in told.out
    assert (refused.status, refused.document["code"]) == (1, "Busy") and "pinned as" in refused.document[
        "error"
    ]
    assert [pin["pattern"] for pin in listed.document["pins"]] == ["demo/*"]
    assert ended.out == "unpinned demo/*\n"
    assert "cannot be had: nothing more may go" in planned.out and "room for" in planned.out
    assert dry.document["evictions"] == done.document["evictions"] and not dry.document["is_done"]
    assert asked.status == 2 and "--yes" in asked.err
    assert done.document["is_done"] and await house.cache.list_held() == []
