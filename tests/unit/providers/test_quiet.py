# SPDX-License-Identifier: Apache-2.0
"""Who has to leave an origin in peace, and until when."""

from __future__ import annotations

import pytest
from yarl import URL

from modelexpress.providers import quiet
from modelexpress.providers.quiet import Client, QuietTimes

HUB, CDN = URL("https://hub.example/a?b"), URL("https://cdn.example/x")
LIMITS = {"RateLimit": '"api";r=0;t=30, "pages" ; r = 5 ; t = 9', "Other": "x"}


def test_each_client_of_each_place_has_its_own() -> None:
    times = QuietTimes()
    times.note(Client.of(HUB, "hf_a"), 30.0, LIMITS, now=100.0)

    for other in (Client.of(HUB, None), Client.of(HUB, "hf_b"), Client.of(CDN, "hf_a")):
        assert times.find(other, 101.0) is None
    left = times.find(Client.of(HUB / "elsewhere", "hf_a"), 112.0)
    assert left is not None and left.seconds == 18.0
    assert left.limits == {"RateLimit": '"api";r=0;t=18, "pages" ; r = 5 ;t=0'}
    assert times.find(Client.of(HUB, "hf_a"), 130.0) is None


def test_a_shorter_wait_does_not_end_a_longer_one() -> None:
    times, client = QuietTimes(), Client.of(HUB, None)
    times.note(client, 30.0, {}, now=0.0)
    times.note(client, 5.0, {}, now=1.0)
    left = times.find(client, 2.0)

    assert left is not None and left.seconds == 28.0


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quiet, "_MOST_REMEMBERED", 3)
    times = QuietTimes()
    for number in range(5):
        times.note(Client.of(HUB, f"hf_{number}"), 10.0, {}, now=float(number))
    found = [times.find(Client.of(HUB, f"hf_{number}"), 5.0) is not None for number in range(5)]

    assert found == [False, False, True, True, True]
