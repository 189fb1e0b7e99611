# SPDX-License-Identifier: Apache-2.0
"""How a command ends when it is stopped, and when its words cannot be written."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
from pathlib import Path

import pytest
from tests.support.house import House
from tests.support.shell import BIN, Said, Shell

from modelexpress.testing.hub import Fault, LocalHub

NAME = "demo/tiny"
FULL = Path("/dev/full")
STOPS = [(signal.SIGINT, 130, "stopped"), (signal.SIGTERM, 143, "stopped by SIGTERM")]
needs_full = pytest.mark.skipif(not FULL.exists(), reason="no /dev/full here")


@pytest.fixture
def direct(hub: LocalHub, tmp_path: Path) -> Shell:
    """A person without a server."""
    hosts = {"MODEL_EXPRESS_ORIGIN_REDIRECT_HOSTS": "localhost,127.0.0.1"}
    return Shell(tmp_path, {"HF_ENDPOINT": hub.endpoint, **hosts})


@pytest.fixture
def served(house: House, tmp_path: Path) -> Shell:
    """A person on another machine than the server's."""
    env = {"MODEL_EXPRESS_ENDPOINT": house.endpoint, "MODEL_EXPRESS_NO_SHARED_STORAGE": "true"}
    return Shell(tmp_path, env)


def slow_down(hub: LocalHub) -> Fault:
    return hub.faults.add(Fault("throttle", "body", "model.safetensors", times=None, rate=20_000))


async def stop(process: asyncio.subprocess.Process, number: int) -> Said:
    process.send_signal(number)
    async with asyncio.timeout(20):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


async def wait_applied(fault: Fault) -> None:
    async with asyncio.timeout(20):
        while not fault.applied:
            await asyncio.sleep(0.02)


def check_stopped(said: Said, folder: Path, status: int, words: str) -> None:
    assert (said.status, said.out) == (status, "")
    assert said.err.splitlines()[-1] == f"Error: {words}" and "Traceback" not in said.err
    assert not list(folder.glob("models--*/snapshots/*")) and not list(folder.glob("models--*/refs/*"))


@pytest.mark.parametrize(("number", "status", "words"), STOPS)
async def test_a_direct_pull_that_is_stopped_cleans_up_and_says_so(
    hub: LocalHub, direct: Shell, number: int, status: int, words: str
) -> None:
    fault = slow_down(hub)
    process = await direct.start("pull", NAME, "-s", "direct", "--cache-path", "mine")
    await wait_applied(fault)
    check_stopped(await stop(process, number), direct.folder / "mine", status, words)
    hub.faults.clear()

    again = await direct.run("pull", NAME, "-s", "direct", "--cache-path", "mine")
    assert again.status == 0 and (Path(again.out.strip()) / "model.safetensors").is_file()


@pytest.mark.parametrize(("number", "status", "words"), STOPS)
async def test_a_pull_from_a_server_that_is_stopped_cleans_up_and_says_so(
    house: House, served: Shell, number: int, status: int, words: str
) -> None:
    fault = slow_down(house.hub)
    process = await served.start("pull", NAME, "--cache-path", "mine")
    await wait_applied(fault)
    check_stopped(await stop(process, number), served.folder / "mine", status, words)


@pytest.mark.parametrize(("number", "status", "words"), STOPS)
async def test_a_program_is_told_of_its_end_in_one_document(
    hub: LocalHub, direct: Shell, number: int, status: int, words: str
) -> None:
    fault = slow_down(hub)
    process = await direct.start("pull", NAME, "-s", "direct", "-f", "json")
    await wait_applied(fault)
    said = await stop(process, number)

    assert said.status == status
    assert (said.document["code"], said.document["success"]) == ("Interrupted", False)
    assert said.document["error"] == words


@pytest.mark.parametrize(("number", "status", "words"), STOPS)
@pytest.mark.parametrize("command", ["cache rm demo/tiny", "model clear-all"])
async def test_a_question_ends_with_the_first_signal_and_nothing_is_removed(
    direct: Shell, command: str, number: int, status: int, words: str
) -> None:
    await direct.run("pull", NAME, "-s", "direct", "--cache-path", "mine")
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        str(BIN / "modelexpress"), *command.split(), "--cache-path", "mine",
        cwd=direct.folder, env={"PATH": os.environ["PATH"], "HOME": str(direct.folder / "home")},
        stdin=theirs, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(theirs)
    assert process.stderr is not None
    async with asyncio.timeout(20):
        asked = await process.stderr.readuntil(b"[y/N] ")
    said = await stop(process, number)
    os.close(ours)

    assert asked and (said.status, said.out) == (status, "")
    assert said.err.splitlines()[-1] == f"Error: {words}" and "Traceback" not in said.err
    assert list((direct.folder / "mine").glob("models--*/snapshots/*"))


async def typed(shell: Shell, line: str) -> Said:
    """What bash gets from a line in which `modelexpress` is ours."""
    process = await asyncio.create_subprocess_exec(
        "bash", "-c", f"modelexpress() {{ {BIN / 'modelexpress'} \"$@\"; }}; {line}",
        cwd=shell.folder, env={"PATH": os.environ["PATH"], "HOME": str(shell.folder / "home"), **shell.env},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


@needs_full
@pytest.mark.parametrize(
    "command",
    [
        "cache ls",
        "config show",
        "--help",
        "pull --help",
        "help pull",
        "--version",
        "completion bash",
        "-f json cache ls",
    ],
)
async def test_a_result_that_cannot_be_written_is_one_line_and_status_1(direct: Shell, command: str) -> None:
    said = await typed(direct, f"modelexpress {command} >/dev/full")

    line = "Error: the result cannot be written to standard output: No space left on device"
    assert said.status == 1 and "Traceback" not in said.err
    assert [text for text in said.err.splitlines() if not text.startswith("cache directory ")] == [line]


@needs_full
async def test_a_failure_whose_document_cannot_be_written_is_said_on_standard_error(direct: Shell) -> None:
    said = await typed(direct, "modelexpress -f json pull demo/none -s direct >/dev/full")

    assert said.status == 1 and "Traceback" not in said.err
    assert said.err.splitlines()[-1].startswith("Error: ") and "demo/none" in said.err


@needs_full
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-"])
async def test_what_cannot_be_told_on_standard_error_changes_no_status(
    direct: Shell, redirection: str
) -> None:
    listed = await typed(direct, f"modelexpress -vv cache ls -f json {redirection}")
    wrong = await typed(direct, f"modelexpress nosuch {redirection}")
    failed = await typed(direct, f"modelexpress health -e 127.0.0.1:9 {redirection}")

    assert listed.status == 0 and json.loads(listed.out)["success"]
    assert (wrong.status, failed.status) == (2, 1)
    assert wrong.out == wrong.err == failed.out == failed.err == ""


@pytest.mark.parametrize("redirection", [">&-", "<&- >&- 2>&-", "<&-", "2>&-"])
async def test_closed_streams_lead_nowhere_and_never_into_a_file_of_the_model(
    direct: Shell, redirection: str
) -> None:
    said = await typed(direct, f"modelexpress -vvv pull {NAME} -s direct --cache-path mine {redirection}")
    verified = await direct.run("cache", "verify", "--cache-path", "mine")

    assert said.status == verified.status == 0 and "Traceback" not in said.err


async def test_a_payload_larger_than_a_server_takes_is_refused_before_anybody_is_asked(direct: Shell) -> None:
    for source in ("-f /dev/zero", "-p - </dev/zero", "-p - < large", "-f large", "-f grows"):
        (direct.folder / "large").write_text(json.dumps({"a": "x" * (4 << 20)}))
        (direct.folder / "grows").write_text(json.dumps({"a": "ü" * (1 << 20)}, ensure_ascii=False))
        said = await typed(direct, f"modelexpress api send ping -e 127.0.0.1:9 {source}")

        assert said.status == 1 and said.out == ""
        assert "4 MiB" in said.err and said.err.startswith("Error: ") and len(said.err) < 400
    binary = await typed(direct, "printf '\\xff' | modelexpress api send ping -p -")
    assert binary.status == 2 and "not UTF-8" in binary.err


async def test_an_endpoint_that_no_command_could_use_is_not_written(direct: Shell) -> None:
    made = await direct.run("model", "init", "--server-endpoint", "one:1")
    wrong = await direct.run("model", "init", "--server-endpoint", "https://x")
    also = await direct.run("model", "init", "-e", "https://x")
    shown = await direct.run("config", "show", "-f", "json")

    assert (made.status, wrong.status, also.status, shown.status) == (0, 1, 1, 0)
    assert "https://x" in wrong.err and "TLS" in wrong.err
    assert shown.document["settings"]["connection.endpoint"] == "http://one:1"


async def test_a_variable_that_does_nothing_is_a_warning_of_the_check(direct: Shell) -> None:
    said = await direct.run("serve", "--validate-config", REDIS_URL="redis://x", AWS_ACCESS_KEY_ID="x")

    assert said.status == 0
    assert said.err == "Warning: REDIS_URL is set, and does nothing in this version: unset it\n"
