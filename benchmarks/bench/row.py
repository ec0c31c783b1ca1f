"""What a row of the benchmark is, and what comes of measuring it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bench.figures import Sample

if TYPE_CHECKING:
    from bench.workplace import Workplace

Status = Literal["met", "missed", "measured", "not available", "failed"]
"""``measured``: there is no bar, or the run was a quick one. ``failed``: it could not be measured."""


@dataclass(frozen=True)
class Bar:
    """A bound on one value of a row.

    Args:
        value: Its name among the measurement's ``values``.
        limit: The bound; the value may equal it.
        unit: Of both.
        at_least: Whether the value has to be as large as the limit, instead of as small.
    """

    value: str
    limit: float
    unit: str
    at_least: bool = False

    def check(self, measured: float) -> Check:
        """Whether a value meets it."""
        excess = self.limit - measured if self.at_least else measured - self.limit
        return Check(self, measured, max(0.0, excess))


@dataclass(frozen=True)
class Check:
    """A bar and the value that was measured; ``missed_by`` is 0 if it is met."""

    bar: Bar
    measured: float
    missed_by: float

    @property
    def is_met(self) -> bool:
        """Whether the value is within the bar."""
        return self.missed_by == 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "value": self.bar.value,
            "measured": self.measured,
            "bound": "at least" if self.bar.at_least else "at most",
            "limit": self.bar.limit,
            "unit": self.bar.unit,
            "met": self.is_met,
            "missed_by": self.missed_by,
        }


@dataclass(frozen=True)
class Measurement:
    """What one row measured.

    Args:
        ours: Our figures, the row's own first.
        peer: The peer's, likewise.
        ratio: Ours over the peer's, of pairs measured in turns.
        values: What the row's bars look at, by name.
        table: Further figures by name, for people.
        notes: What has to be known to read the figures.
    """

    ours: Sequence[Sample] = ()
    peer: Sequence[Sample] = ()
    ratio: Sample | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    table: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


class NotAvailableError(Exception):
    """What a row is about is not there: an option, a header, a device.

    Args:
        reason: What is missing.
        measurement: What could be measured all the same.
    """

    def __init__(self, reason: str, measurement: Measurement | None = None) -> None:
        super().__init__(reason)
        self.measurement = measurement or Measurement()


@dataclass(frozen=True)
class Row:
    """One thing to measure.

    Args:
        id: What users write.
        title: What is measured, in one line.
        peer: What it is measured against.
        bars: What is asked of it; none where it only informs.
        measure: Measures it, or raises :class:`NotAvailableError`.
    """

    id: str
    title: str
    peer: str
    bars: Sequence[Bar]
    measure: Callable[[Workplace], Measurement]


@dataclass(frozen=True)
class Result:
    """A row and what came of it.

    Args:
        row: The row.
        status: See :data:`Status`.
        seconds: How long measuring took, all included.
        measurement: Empty if it failed.
        checks: One a bar whose value was measured.
        reason: Why it is not available, or what failed.
    """

    row: Row
    status: Status
    seconds: float
    measurement: Measurement
    checks: Sequence[Check] = ()
    reason: str | None = None

    @classmethod
    def measured(cls, row: Row, seconds: float, measurement: Measurement, *, quick: bool = False) -> Result:
        """Of a row that was measured; each bar finds its value, or the measurement is wrong.

        Args:
            row: The row.
            seconds: How long measuring took.
            measurement: What came of it.
            quick: Whether it was a quick run: its status then claims nothing.

        Raises:
            KeyError: If a bar's value was not measured.
        """
        checks = [bar.check(measurement.values[bar.value]) for bar in row.bars]
        status: Status = (
            "measured" if quick or not checks else "met" if all(check.is_met for check in checks) else "missed"
        )
        return cls(row, status, seconds, measurement, checks)

    @classmethod
    def not_available(cls, row: Row, seconds: float, error: NotAvailableError) -> Result:
        """Of a row whose subject is not there."""
        values = error.measurement.values
        checks = [bar.check(values[bar.value]) for bar in row.bars if bar.value in values]
        return cls(row, "not available", seconds, error.measurement, checks, str(error))

    @classmethod
    def failed(cls, row: Row, seconds: float, error: BaseException) -> Result:
        """Of a row that raised."""
        return cls(row, "failed", seconds, Measurement(), (), f"{type(error).__name__}: {error}")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        measurement = self.measurement
        return {
            "id": self.row.id,
            "title": self.row.title,
            "peer_is": self.row.peer,
            "status": self.status,
            "reason": self.reason,
            "ours": [sample.as_dict() for sample in measurement.ours],
            "peer": [sample.as_dict() for sample in measurement.peer],
            "ratio": measurement.ratio.as_dict() if measurement.ratio else None,
            "bars": [check.as_dict() for check in self.checks],
            "table": dict(measurement.table),
            "notes": list(measurement.notes),
            "seconds": round(self.seconds, 1),
        }
