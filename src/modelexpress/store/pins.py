# SPDX-License-Identifier: Apache-2.0
"""Pins on disk: `.mx/pins.json`. Blocking: call it in the disk pool."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from modelexpress.domain.errors import Corrupt, MxError, Unsupported
from modelexpress.domain.pins import Pin
from modelexpress.store.disk import write_durably
from modelexpress.store.layout import Layout

FORMAT = 1


class Pins:
    """The pins of one cache root."""

    def __init__(self, layout: Layout, owner: str) -> None:
        self._layout = layout
        self._owner = owner

    @property
    def path(self) -> Path:
        """The file."""
        return self._layout.ours / "pins.json"

    def read(self) -> list[Pin]:
        """All of them, also those that are over. Raises Corrupt or Unsupported: what is pinned is unknown."""
        try:
            content = json.loads(self.path.read_bytes())
            if content["format"] > FORMAT:
                raise Unsupported(
                    f"{self.path} was written by a newer version: use that one, or nothing can be evicted"
                )
            return [Pin(row["pattern"], float(row["created_at"]), _until(row)) for row in content["pins"]]
        except FileNotFoundError:
            return []
        except Unsupported:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MxError) as error:
            raise Corrupt(
                f"{self.path} cannot be read ({error}), so what is pinned is unknown and nothing is evicted: "
                "mend the file, or remove it and pin again"
            ) from error

    def write(self, pins: Iterable[Pin]) -> None:
        """Put these in the place of all that were there, durably."""
        content = {"format": FORMAT, "pins": [asdict(pin) for pin in pins]}
        write_durably(self._layout.staging, self._owner, self.path, json.dumps(content, indent=1).encode())


def _until(row: dict[str, object]) -> float | None:
    until = row.get("until")
    if until is None:
        return None
    if not isinstance(until, int | float):
        raise ValueError(f"'until' is {until!r}")
    return float(until)
