"""Whether a new version is better than the one that is served: on studies that neither has learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 4000
SURE = 0.9
"""Part of the resamples in which a new version must be the better one."""

WORST = -0.01
"""What one kind of prompt, or the fixed set, may lose in the mean."""


@dataclass(frozen=True)
class Score:
    """One answer, compared with an accepted label.

    Args:
        study: Whose: studies are resampled, as the answers of one are alike.
        kind: What was asked: ``box``, ``point``, or ``auto`` without a prompt.
        dice: 0 to 1; 1 if nothing was rightly found.
    """

    study: str
    kind: str
    dice: float


@dataclass(frozen=True)
class Verdict:
    """What the comparison says.

    Args:
        accepted: Whether the new version may be served.
        reason: In one sentence.
        before: Mean Dice by kind of what is served.
        after: Of the new version.
        sure: Part of the resamples in which it is better.
    """

    accepted: bool
    reason: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    sure: float


def judge(before: Sequence[Score], after: Sequence[Score], fixed: tuple[Sequence[Score], Sequence[Score]]) -> Verdict:
    """Compare the answers of two versions to the same questions.

    The mean difference over all kinds is bootstrapped, by study and paired (Efron and Tibshirani 1993, chapter 16):
    the new version must be better in ``SURE`` of the resamples. No kind may lose more than ``WORST``, on the held-out
    studies or on the fixed set.

    Args:
        before: Of the version that is served.
        after: Of the new one, in the same order.
        fixed: The same two for a fixed set; empty for what has no answer there.

    Raises:
        ValueError: If the questions differ, or there are none.
    """
    means = [_means(scores) for scores in (before, after)]
    old, new = means
    if not old or [_question(score) for score in before] != [_question(score) for score in after]:
        raise ValueError("two versions are compared by the same questions")
    sure = _sureness(before, after)
    kept = dict(zip(("before", "after"), ({k: round(v, 4) for k, v in one.items()} for one in means), strict=True))

    def verdict(accepted: bool, reason: str) -> Verdict:
        return Verdict(accepted, reason, sure=round(sure, 3), **kept)

    for where, (was, now) in {
        "on the held-out studies": (old, new),
        "on the fixed images": (_means(fixed[0]), _means(fixed[1])),
    }.items():
        for kind, value in was.items():
            if now[kind] - value < WORST:
                return verdict(False, f"Dice with {_named(kind)} falls from {value:.3f} to {now[kind]:.3f} {where}")
    if sure < SURE:
        return verdict(False, f"it is better in only {sure:.0%} of the resamples of the held-out studies")
    return verdict(True, f"it is better in {sure:.0%} of the resamples of the held-out studies")


def _question(score: Score) -> tuple[str, str]:
    return score.study, score.kind


def _named(kind: str) -> str:
    return {"box": "a box", "point": "a point", "auto": "no prompt"}.get(kind, kind)


def _means(scores: Sequence[Score]) -> dict[str, float]:
    kinds = sorted({score.kind for score in scores})
    return {kind: float(np.mean([score.dice for score in scores if score.kind == kind])) for kind in kinds}


def _sureness(before: Sequence[Score], after: Sequence[Score]) -> float:
    """Return the part of resamples of the studies in which the mean difference is above 0, kinds weighing the same."""
    kinds = sorted({score.kind for score in before})
    studies = sorted({score.study for score in before})
    sums = np.zeros((2, len(studies), len(kinds)))
    for was, now in zip(before, after, strict=True):
        place = studies.index(was.study), kinds.index(was.kind)
        sums[(0, *place)] += now.dice - was.dice
        sums[(1, *place)] += 1
    picks = np.random.default_rng(0).integers(len(studies), size=(RESAMPLES, len(studies)))
    differences, counts = sums[0][picks].sum(1), sums[1][picks].sum(1)
    return float(np.mean((differences / np.maximum(counts, 1)).mean(1) > 0))
