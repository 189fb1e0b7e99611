# SPDX-License-Identifier: Apache-2.0
"""Where redirects may lead: never to what only this machine can reach."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Callable

import pytest
from yarl import URL

from modelexpress.domain.errors import Forbidden
from modelexpress.providers.addresses import GuardedResolver, Places, is_private

ORIGIN = URL("https://huggingface.co/a/b/resolve/main/x")
PLACES = Places(URL("https://huggingface.co"), frozenset({"cache.internal", "10.9.9.9"}))

PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "198.18.0.1",
    "192.0.2.1",
    "240.0.0.1",
    "::",
    "::1",
    "fe80::1",
    "fe80::1%eth0",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "fec0::1",
    "2001:db8::1",
    "::ffff:127.0.0.1",
    "::ffff:a9fe:a9fe",
    "::ffff:0a00:0001",
    "2002:7f00:1::",
    "2002:0a00:0001::1",
    "64:ff9b::7f00:1",
    "64:ff9b::169.254.169.254",
    "::127.0.0.1",
    "::10.0.0.1",
    "[::1]",
]
ODD = [
    "127.1",
    "127.0.1",
    "0x7f.1",
    "0x7f000001",
    "2130706433",
    "017700000001",
    "0177.0.0.1",
    "0",
    "127.0.0.1.",
]
PUBLIC = ["8.8.8.8", "1.1.1.1", "172.32.0.1", "2606:4700::1111", "2002:0808:0808::1", "::ffff:8.8.8.8"]
PUBLIC_BY_GATEWAY = ["64:ff9b::808:808"]
NAMES = ["huggingface.co", "cdn-lfs.hf.co", "1e100.net", "0x.example", "a" * 300, "localhost", ""]


@pytest.mark.parametrize("host", PRIVATE + ODD)
def test_an_address_inside_is_private_however_it_is_written(host: str) -> None:
    assert is_private(host)


@pytest.mark.parametrize("host", PUBLIC + PUBLIC_BY_GATEWAY + NAMES)
def test_public_addresses_and_names_are_not(host: str) -> None:
    assert not is_private(host)


@pytest.mark.prove
def test_no_spelling_of_a_private_address_passes(proof_count: Callable[[int], int]) -> None:
    nets = [
        ipaddress.IPv4Network(n) for n in ("10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.168.0.0/16")
    ]
    for seed in range(proof_count(200)):
        chance = random.Random(seed)
        net = chance.choice(nets)
        number = int(net.network_address) + chance.randrange(net.num_addresses)
        a, b, c, d = number.to_bytes(4, "big")
        spellings = [
            f"{a}.{b}.{c}.{d}",
            f"{a}.{b}.{c * 256 + d}",
            f"{a}.{number & 0xFFFFFF}",
            str(number),
            hex(number),
            f"{a:#o}.{b:#x}.{c}.{d}".replace("0o", "0"),
            f"::ffff:{a}.{b}.{c}.{d}",
            f"64:ff9b::{a}.{b}.{c}.{d}",
            f"2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1",
            f"::{a}.{b}.{c}.{d}",
            f"{a}.{b}.{c}.{d}.",
        ]
        assert [spelling for spelling in spellings if not is_private(spelling)] == [], seed


@pytest.mark.parametrize(
    "host", [*PRIVATE[:-1], *ODD, "metadata.google.internal", "Metadata.Google.Internal."]
)
def test_a_redirect_to_such_a_place_is_refused(host: str) -> None:
    target = URL.build(scheme="https", host=host, path="/secret") if ":" in host else URL(f"https://{host}/x")
    with pytest.raises(Forbidden, match="private address"):
        PLACES.check_redirect(ORIGIN, target)


@pytest.mark.parametrize(
    "target",
    [
        "https://cdn-lfs.hf.co/x?Signature=1",
        "https://8.8.8.8/x",
        "https://huggingface.co/api/resolve-cache/x",
        "https://cache.internal/x",
        "https://CACHE.internal:8443/x",
        "https://10.9.9.9/x",
    ],
)
def test_a_redirect_to_the_world_or_to_a_named_host_is_followed(target: str) -> None:
    PLACES.check_redirect(ORIGIN, URL(target, encoded=True))


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ("http://cdn-lfs.hf.co/x", "from https to http"),
        ("http://cache.internal/x", "from https to http"),
        ("https://user:hf_secret@cdn-lfs.hf.co/x", "credentials"),
        ("https://user@cdn-lfs.hf.co/x", "credentials"),
        ("file:///etc/passwd", "'file'"),
        ("ftp://cdn-lfs.hf.co/x", "'ftp'"),
        ("gopher://127.0.0.1:6379/x", "'gopher'"),
        ("javascript:alert(1)", "'javascript'"),
        ("data:text/plain,x", "'data'"),
        ("https://\uff11\uff12\uff17.\uff10.\uff10.\uff11/x", "private address|plain"),
        ("https://%31%32%37.0.0.1/x", "plain"),
        ("https://127\u30020\u30020\u30021/x", "private address|plain"),
    ],
)
def test_what_no_redirect_of_a_hub_looks_like_is_refused(target: str, why: str) -> None:
    with pytest.raises(Forbidden, match=why) as refusal:
        PLACES.check_redirect(ORIGIN, URL(target, encoded=True))

    assert "hf_secret" not in refusal.value.message
    assert "origin.redirect_hosts" in refusal.value.message


@pytest.mark.parametrize(
    ("origin", "target"),
    [
        ("http://10.0.0.5:8080", "http://10.0.0.5:8080/x"),
        ("http://10.0.0.5", "https://10.0.0.5/x"),
        ("https://10.0.0.5", "https://10.0.0.5:443/x"),
        ("http://hub.internal", "http://hub.internal:80/x"),
    ],
)
def test_an_origin_may_lead_to_itself(origin: str, target: str) -> None:
    Places(URL(origin), frozenset()).check_redirect(URL(origin), URL(target))


@pytest.mark.parametrize(
    ("origin", "target"),
    [
        ("http://10.0.0.5:8080", "http://10.0.0.5/x"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:6379/x"),
        ("http://127.0.0.1:8080", "https://127.0.0.1/x"),
        ("https://10.0.0.5", "https://10.0.0.5:8443/x"),
    ],
)
def test_what_else_listens_on_a_private_origins_host_is_not_the_origin(origin: str, target: str) -> None:
    with pytest.raises(Forbidden, match=r"private address.*origin\.redirect_hosts"):
        Places(URL(origin), frozenset()).check_redirect(URL(origin), URL(target))
    named = Places(URL(origin), frozenset({URL(origin).host or ""}))
    named.check_redirect(URL(origin), URL(target))


async def test_a_name_at_another_port_than_the_origins_is_looked_at() -> None:
    resolver = GuardedResolver(Places(URL("http://localhost:8080"), frozenset()), frozenset())
    with pytest.raises(Forbidden, match=r"'localhost'.*origin\.redirect_hosts"):
        await resolver.resolve("localhost", 6379)
    await resolver.close()


async def test_what_else_listens_on_the_host_of_a_proxy_is_not_the_proxy() -> None:
    resolver = GuardedResolver(PLACES, frozenset({("localhost", 3128)}))
    with pytest.raises(Forbidden, match=r"'localhost'.*origin\.redirect_hosts"):
        await resolver.resolve("localhost", 6379)
    await resolver.close()


async def test_a_name_with_private_addresses_alone_is_not_contacted() -> None:
    resolver = GuardedResolver(PLACES, frozenset())
    with pytest.raises(Forbidden, match=r"'localhost'.*origin\.redirect_hosts"):
        await resolver.resolve("localhost", 80)
    await resolver.close()


@pytest.mark.parametrize(
    ("places", "proxies"),
    [
        (Places(URL("http://localhost:8080"), frozenset()), frozenset[tuple[str, int]]()),
        (Places(URL("https://huggingface.co"), frozenset({"localhost"})), frozenset[tuple[str, int]]()),
        (PLACES, frozenset({("localhost", 8080)})),
    ],
    ids=["the origin", "a named host", "the proxy"],
)
async def test_a_host_that_somebody_configured_may_have_any_address(
    places: Places, proxies: frozenset[tuple[str, int]]
) -> None:
    resolver = GuardedResolver(places, proxies)
    found = await resolver.resolve("localhost", 8080)
    await resolver.close()

    assert "127.0.0.1" in [result["host"] for result in found]
