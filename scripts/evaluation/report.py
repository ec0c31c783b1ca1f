"""The measured figures as tables and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from evaluation.cases import Case
from evaluation.figures import Figures, correlation, mean_with_interval
from evaluation.protocols import CLICK_COUNTS
from evaluation.volumes import VolumeCase, area_under_curve

_CORRECTED = ("corrections", "box, corrections")
CORRECTION_COUNTS = (2, 5)
"""Of the corrective clicks in a volume, those that the table shows."""

NOC_THRESHOLDS = (0.85, 0.90)


@dataclass(frozen=True, eq=False)
class Result:
    """One answer of one case.

    Args:
        case: What was asked for.
        row: Of the table.
        figures: Against the truth.
        packed: The answer, packed by ``numpy.packbits``.
        score: Predicted IoU, if a model said one.
    """

    case: Case | VolumeCase
    row: str
    figures: Figures
    packed: np.ndarray
    score: float | None = None

    @property
    def mask(self) -> np.ndarray:
        """The answer, bool, of the truth's shape."""
        shape = self.case.truth.shape
        return np.unpackbits(self.packed, count=int(np.prod(shape))).reshape(shape).astype(bool)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"case": self.case.name, "label": self.case.label, "row": self.row, "score": self.score} | asdict(
            self.figures
        )


def rows_of(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results by row, in the order in which the rows came."""
    rows: dict[str, list[Result]] = {}
    for result in results:
        rows.setdefault(result.row, []).append(result)
    return rows


def is_shown(row: str) -> bool:
    """Whether the row stands in the table: of the clicks only some counts do."""
    kind, _, count = row.rpartition(" ")
    if kind in _CORRECTED:
        return int(count) in CORRECTION_COUNTS
    return kind not in ("clicks", "box, clicks") or int(count) in CLICK_COUNTS


def summary(results: Sequence[Result]) -> list[dict[str, Any]]:
    """A line for each shown row: means with 95 % intervals, and how well the model knows its IoU."""
    lines = []
    for row, found in rows_of(results).items():
        if not is_shown(row):
            continue
        line: dict[str, Any] = {"row": row, "objects": len(found)}
        for name in ("dice", "iou", "nsd"):
            mean, low, high = mean_with_interval([getattr(result.figures, name) for result in found])
            line[name] = {"mean": round(mean, 4), "low": round(low, 4), "high": round(high, 4)}
        scored = [(result.score, result.figures.iou) for result in found if result.score is not None]
        known = correlation(*zip(*scored, strict=True)) if scored else None
        line["score_correlation"] = None if known is None else round(known, 3)
        lines.append(line)
    return lines


def calibration(results: Sequence[Result]) -> dict[str, Any] | None:
    """How well the model knows its IoU over the answers of all shown rows: correlation and mean absolute error.

    None without predicted IoUs, or if they do not vary.
    """
    scored = [(r.score, r.figures.iou) for r in results if r.score is not None and is_shown(r.row)]
    known = correlation(*zip(*scored, strict=True)) if scored else None
    if known is None:
        return None
    errors = [abs(predicted - true) for predicted, true in scored]
    return {"answers": len(scored), "correlation": round(known, 3), "mean_error": round(float(np.mean(errors)), 3)}


def clicks_needed(results: Sequence[Result]) -> list[dict[str, Any]]:
    """NoC: the mean number of clicks until the IoU is reached, at most eight, and in how many objects it never is."""
    lines = []
    for kind in ("clicks", "box, clicks"):
        courses: dict[str, list[float]] = {}
        for result in results:
            if result.row.rpartition(" ")[0] == kind:
                courses.setdefault(result.case.name, []).append(result.figures.iou)
        for threshold in NOC_THRESHOLDS if courses else ():
            reached = [
                next((n for n, iou in enumerate(ious, 1) if iou >= threshold), None) for ious in courses.values()
            ]
            lines.append(
                {
                    "row": f"{kind}: NoC@{threshold * 100:.0f}",
                    "mean": round(float(np.mean([CLICK_COUNTS[-1] if n is None else n for n in reached])), 2),
                    "never": sum(n is None for n in reached),
                    "objects": len(reached),
                }
            )
    return lines


def areas(results: Sequence[Result]) -> list[dict[str, Any]]:
    """DSC_AUC and NSD_AUC over the corrective clicks in volumes: means over the objects."""
    lines = []
    for kind in _CORRECTED:
        courses: dict[str, list[Figures]] = {}
        for result in results:
            if result.row.rpartition(" ")[0] == kind:
                courses.setdefault(result.case.name, []).append(result.figures)
        if courses:
            line: dict[str, Any] = {"row": kind, "objects": len(courses)}
            for name in ("dice", "nsd"):
                found = [area_under_curve([getattr(each, name) for each in course]) for course in courses.values()]
                line[f"{name}_auc"] = round(float(np.mean(found)), 4)
            lines.append(line)
    return lines


def by_label(results: Sequence[Result]) -> dict[str, dict[str, float]]:
    """Mean Dice by label and shown row."""
    table: dict[str, dict[str, list[float]]] = {}
    for result in results:
        if is_shown(result.row):
            table.setdefault(result.case.label, {}).setdefault(result.row, []).append(result.figures.dice)
    return {
        label: {row: round(float(np.mean(values)), 4) for row, values in rows.items()}
        for label, rows in sorted(table.items())
    }


def as_text(results: Sequence[Result], tolerance: str) -> str:
    """The tables as a person reads them."""
    lines = [f"{'':28} {'Dice (95 %)':>22} {'IoU':>7} {'NSD ' + tolerance:>12} {'r(IoU)':>7}"]
    for line in summary(results):
        dice, r = line["dice"], line["score_correlation"]
        interval = f"{dice['mean']:.3f} ({dice['low']:.3f}-{dice['high']:.3f})"
        lines.append(
            f"{line['row']:28} {interval:>22} {line['iou']['mean']:7.3f} {line['nsd']['mean']:12.3f} "
            f"{'' if r is None else format(r, '.2f'):>7}"
        )
    known = calibration(results)
    if known is not None:
        stated = f"r(IoU) {known['correlation']:.2f}, mean error {known['mean_error']:.3f}"
        lines.append(f"{'predicted IoU, all answers':28} {stated}; {known['answers']} answers")
    for line in clicks_needed(results):
        lines.append(f"{line['row']:28} {line['mean']:.2f} clicks; never in {line['never']} of {line['objects']}")
    for line in areas(results):
        stated = f"DSC_AUC {line['dice_auc']:.3f}, NSD_AUC {line['nsd_auc']:.3f} of 4"
        lines.append(f"{line['row']:28} {stated}")
    rows = [row for row in rows_of(results) if is_shown(row) and ":" not in row]
    lines += ["", f"{'mean Dice by label':28} " + " ".join(f"{row:>14}" for row in rows)]
    for label, figures in by_label(results).items():
        lines.append(f"{label[:28]:28} " + " ".join(f"{figures.get(row, float('nan')):14.3f}" for row in rows))
    return "\n".join(lines)
