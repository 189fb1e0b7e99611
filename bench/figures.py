# SPDX-License-Identifier: Apache-2.0
"""What was measured, round by round, and the figures that are made of it."""

from __future__ import annotations

import operator
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field

GIGABYTE = 1e9
MEGABYTE = 1e6

_CALM_CORES = 0.15
_BARS: dict[str, Callable[[float, float], bool]] = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement of one contender. `seconds` is the clock; `fsync_seconds` stood outside of it.

    `others_cpu`: core-seconds that went meanwhile to other work on the machine, or to other machines;
    None where that was not measured.
    """

    seconds: float
    client_cpu: float = 0.0
    server_cpu: float = 0.0
    client_peak: int = 0
    server_peak: int = 0
    fsync_seconds: float | None = None
    others_cpu: float | None = None

    @property
    def is_calm(self) -> bool:
        """Whether others took next to nothing."""
        return self.others_cpu is not None and self.others_cpu < _CALM_CORES * self.seconds


@dataclass(slots=True)
class Series:
    """All rounds of one contender, moving `bytes` in each."""

    name: str
    bytes: int
    runs: list[Run] = field(default_factory=list)

    @property
    def seconds(self) -> list[float]:
        """The clock of every round."""
        return [run.seconds for run in self.runs]

    @property
    def best(self) -> Run:
        """The fastest round."""
        return min(self.runs, key=lambda run: run.seconds)

    def median(self, of: Callable[[Run], float]) -> float:
        """The median over all rounds."""
        return statistics.median(of(run) for run in self.runs)

    def as_document(self) -> dict[str, object]:
        """Every single measurement."""
        return {"name": self.name, "bytes": self.bytes, "runs": [asdict(run) for run in self.runs]}


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table of ratios. `median`: of the same taken per round; `bar` such as `>= 0.7`."""

    what: str
    value: float
    median: float | None = None
    bar: str = ""
    note: str = ""

    @property
    def is_reached(self) -> bool | None:
        """Whether the bar is; None without one."""
        if not self.bar:
            return None
        sign, number = self.bar.split()
        return _BARS[sign](round(self.value, 2), float(number))


@dataclass(slots=True)
class Found:
    """What a part of the suite found."""

    series: list[Series] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, other: Found) -> None:
        """Take over what another part found."""
        self.series += other.series
        self.figures += other.figures
        self.notes += other.notes


def speed(what: str, ours: Series, theirs: Series, bar: str = "", note: str = "") -> Figure:
    """How many times as fast as theirs ours is: of the bests, and the median of the rounds."""
    pairs = list(zip(ours.runs, theirs.runs, strict=True))
    rounds = [other.seconds / own.seconds for own, other in pairs]
    calm = [other.seconds / own.seconds for own, other in pairs if own.is_calm and other.is_calm]
    if 0 < len(calm) < len(rounds):
        note = f"{note}; median of {len(calm)} calm rounds {statistics.median(calm):.2f}".lstrip("; ")
    return Figure(what, theirs.best.seconds / ours.best.seconds, statistics.median(rounds), bar, note)


def duration(what: str, ours: Series, theirs: Series, bar: str = "", note: str = "") -> Figure:
    """How many times as long as theirs ours takes."""
    rounds = [own / other for own, other in zip(ours.seconds, theirs.seconds, strict=True)]
    return Figure(what, ours.best.seconds / theirs.best.seconds, statistics.median(rounds), bar, note)


def cpu_per_gigabyte(series: Series, side: str) -> list[float]:
    """Core-seconds per GB of the `client` or the `server`, in every round."""
    used = [run.client_cpu if side == "client" else run.server_cpu for run in series.runs]
    return [seconds / (series.bytes / GIGABYTE) for seconds in used]


def lowest(what: str, values: Sequence[float], bar: str = "", note: str = "") -> Figure:
    """The least of what does not count noise of others as ours, with the median."""
    return Figure(what, min(values), statistics.median(values), bar, note)
