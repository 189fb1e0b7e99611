# SPDX-License-Identifier: Apache-2.0
"""How many connections each host may have."""

from __future__ import annotations

import pytest

from modelexpress.server.connections import Shares, host_of


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("10.0.0.7", "10.0.0.7"),
        ("::ffff:10.0.0.7", "10.0.0.7"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("127.0.0.1", None),
        ("::ffff:127.0.0.2", None),
        ("::1", None),
        ("", None),
    ],
)
def test_whose_an_address_is(address: str, host: str | None) -> None:
    assert host_of(address) == host


def test_no_host_takes_what_the_others_need() -> None:
    shares = Shares(100)

    assert sum(shares.take("10.0.0.1") for _ in range(200)) == 50, "while nobody else is there"
    assert sum(shares.take("10.0.0.2") for _ in range(200)) == 25
    assert sum(shares.take("10.0.0.3") for _ in range(200)) == 25
    assert not shares.take("10.0.0.4")
    shares.give_back("10.0.0.2")
    assert not shares.take("10.0.0.1") and shares.take("10.0.0.4")


def test_this_machine_has_no_share_and_still_not_more_than_all() -> None:
    shares = Shares(8)

    assert sum(shares.take("127.0.0.1") for _ in range(20)) == 8
    assert not shares.take("10.0.0.1")
    for _ in range(8):
        shares.give_back("127.0.0.1")
    assert sum(shares.take("10.0.0.1") for _ in range(20)) == 4
