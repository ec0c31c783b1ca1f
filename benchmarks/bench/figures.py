"""Times and what is said of them: median, spread, percentiles, ratios of pairs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Sample:
    """Values of one quantity, in the order in which they were measured.

    Args:
        name: What was measured, for people.
        values: At least one.
        unit: Of the values; ``ms``, ``s``, ``x`` and so on.

    Raises:
        ValueError: If there are no values.
    """

    name: str
    values: tuple[float, ...]
    unit: str = "ms"

    def __post_init__(self) -> None:
        if not self.values:
            raise ValueError(f"nothing was measured of {self.name}")

    @classmethod
    def of(cls, name: str, values: Sequence[float], unit: str = "ms") -> Sample:
        """A sample of any sequence of numbers."""
        return cls(name, tuple(float(value) for value in values), unit)

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def percentile(self, percent: float) -> float:
        """The value that so many percent of the values do not exceed; see :func:`percentile`."""
        return percentile(self.values, percent)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; p99 only where there are enough values for it to mean something."""
        facts: dict[str, Any] = {
            "name": self.name,
            "unit": self.unit,
            "n": len(self.values),
            "median": self.median,
            "min": min(self.values),
            "max": max(self.values),
        }
        if len(self.values) >= 50:
            facts["p99"] = self.percentile(99)
        return facts


def percentile(values: Sequence[float], percent: float) -> float:
    """Between the two nearest of the sorted values, in proportion, as NumPy's ``linear`` does.

    Raises:
        ValueError: If there are no values, or ``percent`` is not in 0 to 100.
    """
    if not values or not 0 <= percent <= 100:
        raise ValueError("a percentile is of at least one value, and between 0 and 100")
    ordered = sorted(values)
    place = percent / 100 * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def pair_ratios(ours: Sequence[float], peer: Sequence[float], name: str = "ours / peer") -> Sample:
    """Each of our values over the peer's that was measured beside it.

    Raises:
        ValueError: If they are not as many.
    """
    return Sample.of(name, [mine / theirs for mine, theirs in zip(ours, peer, strict=True)], "x")


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def milliseconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    return 1000 * seconds(action)
