# SPDX-License-Identifier: Apache-2.0
"""What leaves the machine: through proxies, past private authorities, and never where it must not go."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import trustme
from tests.support.house import QUICK, open_house, tree
from tests.support.proxy import Asked, Origin, Proxy, answer, closed_port, json_answer
from yarl import URL

from modelexpress.domain.errors import Corrupt, Forbidden, Invalid, Limited, MxError, Unreachable
from modelexpress.providers.addresses import Places
from modelexpress.providers.http import Ask, Outgoing, OutgoingOptions
from modelexpress.providers.retry import RetryPolicy
from modelexpress.testing.clock import FakeClock
from modelexpress.testing.hub import HubOptions, LocalHub
from modelexpress.testing.hub.models import tiny_model

NAME = "demo/tiny"
PATIENT = RetryPolicy(max_attempts=6, base_seconds=1.0, cap_seconds=4.0, patience_seconds=60.0)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that no system knows."""
    return trustme.CA()


def served_by(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


def bundle(authority: trustme.CA, folder: Path) -> str:
    path = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


def blobs(root: Path) -> Mapping[str, object]:
    return tree(next(root.glob("models--*")) / "blobs")


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
@pytest.mark.parametrize("spelling", [str.upper, str.lower])
async def test_a_model_is_pulled_through_a_proxy_past_a_private_authority(
    authority: trustme.CA, tmp_path: Path, variable: str, spelling: Callable[[str], str]
) -> None:
    options = HubOptions(ssl_context=served_by(authority))
    async with LocalHub([tiny_model(NAME)], options) as hub, Proxy(credentials="me:pass") as proxy:
        address = proxy.url.replace("http://", "http://me:pass@")
        env = {spelling("HTTPS_PROXY"): address, variable: bundle(authority, tmp_path)}
        async with open_house(hub, tmp_path, env) as house, house.client(tmp_path / "mine") as client:
            model = await client.pull(NAME)

        hosts = {target.partition(":")[0] for target in proxy.targets("CONNECT")}
        assert hosts == {"127.0.0.1", "localhost"}, "the hub and its CDN are reached through the proxy"
        assert {asked.headers["proxy-authorization"] for asked in proxy.asked} == {"Basic bWU6cGFzcw=="}
    assert (model.path / "model.safetensors").stat().st_size > 100_000


async def test_an_authority_that_is_not_trusted_is_a_clear_refusal(
    authority: trustme.CA, tmp_path: Path
) -> None:
    options = HubOptions(ssl_context=served_by(authority))
    async with LocalHub([tiny_model(NAME)], options) as hub:
        env = {"SSL_CERT_FILE": bundle(trustme.CA(), tmp_path)}
        async with open_house(hub, tmp_path, env) as house, house.client(tmp_path / "mine") as client:
            with pytest.raises(MxError, match="SSL_CERT_FILE") as caught:
                await client.pull(NAME)

        assert hub.log.requests == [] and "certificate" in caught.value.message
    assert not list(house.root.glob("models--*/blobs/*"))


@pytest.mark.parametrize("content", [b"", b"no certificate", None])
async def test_a_bundle_that_is_none_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "authority.pem"
    if content is not None:
        path.write_bytes(content)
    async with Origin(lambda _: json_answer({})) as origin:
        outgoing = make_outgoing(origin.endpoint, env={"REQUESTS_CA_BUNDLE": str(path)})
        with pytest.raises(Invalid, match="REQUESTS_CA_BUNDLE"):
            await outgoing.get_json(Ask(URL(origin.endpoint), None))
        await outgoing.close()


async def test_plain_origins_have_a_proxy_of_their_own_and_excluded_ones_none(tmp_path: Path) -> None:
    async with LocalHub([tiny_model(NAME)]) as hub, Proxy() as proxy:
        for number, (env, is_used) in enumerate(
            [
                ({"HTTP_PROXY": proxy.url}, True),
                ({"ALL_PROXY": proxy.url}, True),
                ({"HTTPS_PROXY": proxy.url}, False),
                ({"HTTP_PROXY": proxy.url, "NO_PROXY": "127.0.0.1,localhost"}, False),
                ({"HTTP_PROXY": proxy.url, "no_proxy": "*"}, False),
            ]
        ):
            proxy.asked.clear()
            place = tmp_path / str(number)
            async with open_house(hub, place, env) as house, house.client(place / "mine") as client:
                await client.pull(NAME)
            assert bool(proxy.targets("GET")) is is_used, env
            assert len(blobs(house.root)) == 10


async def test_a_proxy_that_refuses_or_is_gone_is_an_error_without_its_password() -> None:
    async with Origin(lambda _: json_answer({})) as origin, Proxy(credentials="me:right") as proxy:
        for address in (
            proxy.url.replace("//", "//me:wrong@"),
            f"http://me:wrong@127.0.0.1:{closed_port()}",
        ):
            outgoing = make_outgoing(origin.endpoint, env={"HTTP_PROXY": address})
            with pytest.raises(MxError) as caught:
                _, response = await outgoing.get_json(Ask(URL(origin.endpoint), None))
                raise Unreachable(f"proxy answered {response.status}")
            await outgoing.close()
            assert "wrong" not in str(caught.value)
        assert origin.asked == []


UNREADABLE = b"HTTP/1.1 200 OK\r\nSet-Cookie: TOPSECRET\r\nno header\r\n\r\n"
SIGNED = "/file?Expires=1&Signature=TOPSECRET"
DEBRIS = {
    "a head that is none": UNREADABLE,
    "a head that breaks off": answer(302, headers={"Location": SIGNED})[:-4],
    "a redirect to what breaks off": answer(302, headers={"Location": SIGNED}),
    "a redirect to no address": answer(302, headers={"Location": f"http://me:TOPSECRET@a:99999{SIGNED}"}),
}


@pytest.mark.parametrize("said", DEBRIS.values(), ids=DEBRIS)
@pytest.mark.parametrize("way", ["straight", "HTTP_PROXY", "HTTPS_PROXY"])
async def test_no_error_shows_a_password_of_a_proxy_or_a_signature(
    said: bytes, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    def respond(asked: Asked) -> bytes:
        return UNREADABLE if "TOPSECRET" in asked.target else said

    caplog.set_level("DEBUG", "modelexpress")
    async with Origin(respond) as origin:
        env = {} if way == "straight" else {way: origin.endpoint.replace("//", "//me:TOPSECRET@")}
        scheme = "https" if way == "HTTPS_PROXY" else "http"
        outgoing = make_outgoing(f"{scheme}://127.0.0.1:{origin.port}", env=env)
        with pytest.raises(MxError) as caught:
            await outgoing.get_json(Ask(outgoing.options.places.origin / "file", None))
        await outgoing.close()

        assert origin.asked
    assert "TOPSECRET" not in caught.value.message + caplog.text


def make_outgoing(
    endpoint: str, clock: FakeClock | None = None, env: Mapping[str, str] | None = None, hosts: str = ""
) -> Outgoing:
    places = Places(URL(endpoint), frozenset(hosts.split()))
    options = OutgoingOptions(places, "test", "here", 5.0, retry=QUICK, env=env or {})
    if clock is not None:
        options = OutgoingOptions(places, "test", "here", 5.0, retry=PATIENT, clock=clock, chance=_Even())
    return Outgoing(options)


class _Even:
    def uniform(self, low: float, high: float) -> float:
        return (low + high) / 2


def redirect(to: str, status: int = 302) -> bytes:
    return answer(status, headers={"Location": to})


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.2:1/x", "http://[::1]:1/", "http://169.254.169.254/latest/meta-data", "http://10.0.0.1/",
        "http://0x7f.1/", "http://2130706433/", "file:///etc/passwd", "ftp://example.org/", "http://me:x@127.0.0.1/",
        "http://metadata.google.internal/", "//127.0.0.2/x", "http://localhost:1/", "http://①②⑦.0.0.1/",
    ],
)  # fmt: skip
@pytest.mark.parametrize("status", [301, 307])
async def test_a_redirect_to_where_no_hub_leads_is_not_followed(location: str, status: int) -> None:
    async with Origin(lambda _: redirect(location, status)) as origin:
        outgoing = make_outgoing(origin.endpoint)
        with pytest.raises(Forbidden):
            await outgoing.get_json(Ask(URL(origin.endpoint) / "model", "hf_secret"))
        await outgoing.close()

        assert len(origin.asked) == 1


async def test_redirects_in_a_circle_end() -> None:
    async with Origin(lambda _: redirect("/again")) as origin:
        outgoing = make_outgoing(origin.endpoint)
        with pytest.raises(Forbidden, match="more than 5 times"):
            await outgoing.get_json(Ask(URL(origin.endpoint), None))
        await outgoing.close()

        assert len(origin.asked) == 6


async def test_a_token_stays_with_its_origin_when_a_redirect_leaves_it() -> None:
    async with Origin(lambda _: json_answer({"a": 1})) as other:
        there = other.endpoint.replace("127.0.0.1", "localhost")
        async with Origin(lambda _: redirect(f"{there}/file?sig=1")) as origin:
            outgoing = make_outgoing(origin.endpoint, hosts="localhost")
            content, _ = await outgoing.get_json(Ask(URL(origin.endpoint) / "file", "hf_secret"))
            await outgoing.close()

            assert content == {"a": 1}
            assert origin.asked[0].headers["authorization"] == "Bearer hf_secret"
            assert "authorization" not in other.asked[0].headers
            assert "cookie" not in other.asked[0].headers


async def ask(outgoing: Outgoing, origin: Origin, clock: FakeClock) -> tuple[object, float]:
    """The content, or the error, and the seconds that were waited for it."""
    started = clock.monotonic()
    asking = asyncio.create_task(outgoing.get_json(Ask(URL(origin.endpoint) / "x", None)))
    while not asking.done():
        await asyncio.sleep(0.002)
        await clock.advance(0.25)
    try:
        content, _ = await asking
    except MxError as error:
        return error, clock.monotonic() - started
    return content, clock.monotonic() - started


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"RateLimit": '"api";r=0;t=9', "RateLimit-Policy": '"fixed window";"api";q=500;w=300'}, 9.0),
        ({"Retry-After": "nonsense"}, 0.5),
        ({}, 0.5),
    ],
)
async def test_a_wait_that_the_origin_names_is_kept(headers: dict[str, str], seconds: float) -> None:
    answers = [answer(429, headers=headers), json_answer({"ok": True})]
    clock = FakeClock()
    async with Origin(lambda _: answers.pop(0)) as origin:
        outgoing = make_outgoing(origin.endpoint, clock)
        content, waited = await ask(outgoing, origin, clock)
        await outgoing.close()

    assert content == {"ok": True}
    assert seconds <= waited <= seconds + 3.0


async def test_when_one_request_is_told_to_wait_all_of_them_do() -> None:
    clock, asked_at = FakeClock(), []

    def respond(asked: Asked) -> bytes:
        asked_at.append(clock.monotonic())
        return answer(429, headers={"Retry-After": "20"}) if len(asked_at) == 1 else json_answer({})

    async with Origin(respond) as origin:
        outgoing = make_outgoing(origin.endpoint, clock)
        started = clock.monotonic()
        first = asyncio.create_task(ask(outgoing, origin, clock))
        while not asked_at:
            await asyncio.sleep(0.002)
        await asyncio.gather(first, *(ask(outgoing, origin, clock) for _ in range(3)))
        await outgoing.close()

    assert len(asked_at) == 5 and min(asked_at[1:]) >= started + 20


@pytest.mark.parametrize(
    ("response", "kind", "times"),
    [
        (answer(429, headers={"Retry-After": "1"}), Limited, 6),
        (answer(429, headers={"Retry-After": "3600"}), Limited, 1),
        (answer(503), Unreachable, 6),
        (answer(500, b"<html>"), Unreachable, 6),
        (answer(508), Invalid, 1),
        (b"", Unreachable, 6),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", Unreachable, 6),
        (b"SSH-2.0-OpenSSH_9.6\r\n", Unreachable, 6),
        (answer(200, b"{nonsense"), Corrupt, 1),
        (answer(200, b"\xff\xfe"), Corrupt, 1),
        (answer(200, b"[" * 200_000), Corrupt, 1),
        (answer(200, json.dumps("x").encode() + b" " * (64 * 1024 * 1024)), Corrupt, 1),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:40],
)
async def test_an_origin_that_has_no_good_answer_is_an_error_after_its_tries(
    response: bytes, kind: type[MxError], times: int
) -> None:
    clock = FakeClock()
    async with Origin(lambda _: response) as origin:
        outgoing = make_outgoing(origin.endpoint, clock)
        error, _ = await ask(outgoing, origin, clock)
        await outgoing.close()

        assert isinstance(error, kind), error
        assert len(error.message) < 600 and f"127.0.0.1:{origin.port}" in error.message
        # The library asks once more by itself where a connection ends without a word.
        assert len(origin.asked) in (times, times if response else 2 * times)


async def test_an_address_where_nobody_is_fails_sooner_than_an_outage() -> None:
    clock = FakeClock()
    async with Origin(lambda _: answer(503)) as origin:
        away = make_outgoing(f"http://127.0.0.1:{closed_port()}", clock)
        origin_away = make_outgoing(origin.endpoint, clock)
        _, long = await ask(origin_away, origin, clock)
        asking = asyncio.create_task(away.get_json(Ask(away.options.places.origin, None)))
        started = clock.monotonic()
        while not asking.done():
            await asyncio.sleep(0.002)
            await clock.advance(0.25)
        short = clock.monotonic() - started
        with pytest.raises(Unreachable, match=r"origin\.endpoint"):
            await asking
        await away.close()
        await origin_away.close()

    assert short < long


class Silent(Origin):
    """Hears what is asked, and says nothing."""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._read_head(reader)
        await reader.read()


async def test_an_answer_that_may_take_less_than_usual_is_waited_for_no_longer() -> None:
    async with Silent(lambda _: b"") as origin:
        outgoing = make_outgoing(origin.endpoint)
        async with asyncio.timeout(2):
            with pytest.raises(Unreachable, match="no answer in time") as caught:
                await outgoing.get_json(Ask(URL(origin.endpoint), retry=QUICK.once(), seconds=0.05))
        await outgoing.close()
    assert not caught.value.is_gone
