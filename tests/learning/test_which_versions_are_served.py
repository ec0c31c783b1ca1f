"""Which new versions may take the place of what is served."""

from __future__ import annotations

import pytest

from lib.learning.gate import Score, judge


def scores(box: float, point: float, *, studies: int = 6, spread: float = 0.02) -> list[Score]:
    """Return scores around two means, the same way for every call."""
    return [
        Score(f"study {number}", kind, mean + spread * (number % 3 - 1))
        for number in range(studies)
        for kind, mean in (("box", box), ("point", point))
    ]


def test_what_is_better_everywhere_is_served() -> None:
    verdict = judge(scores(0.8, 0.6), scores(0.85, 0.7), (scores(0.9, 0.8), scores(0.9, 0.8)))
    assert verdict.accepted and verdict.sure == 1.0
    assert verdict.before == {"box": 0.8, "point": 0.6} and verdict.after == {"box": 0.85, "point": 0.7}


def test_what_is_the_same_is_not() -> None:
    assert not judge(scores(0.8, 0.6), scores(0.8, 0.6), ((), ())).accepted


def test_a_gain_with_points_does_not_pay_for_a_loss_with_boxes() -> None:
    verdict = judge(scores(0.8, 0.6), scores(0.75, 0.9), ((), ()))
    assert not verdict.accepted
    assert verdict.reason == "Dice with a box falls from 0.800 to 0.750 on the held-out studies"


def test_what_forgets_other_kinds_of_images_is_refused() -> None:
    verdict = judge(scores(0.8, 0.6), scores(0.9, 0.9), (scores(0.9, 0.8), scores(0.9, 0.7)))
    assert not verdict.accepted
    assert verdict.reason == "Dice with a point falls from 0.800 to 0.700 on the fixed images"


def test_a_gain_in_one_study_alone_is_not_trusted() -> None:
    before, after = scores(0.8, 0.6, spread=0), scores(0.8, 0.6, spread=0)
    after[0] = Score(after[0].study, after[0].kind, 1.0)
    verdict = judge(before, after, ((), ()))
    assert not verdict.accepted and 0.6 < verdict.sure < 0.7  # it is drawn in 1 - (5/6)^6 of the resamples


def test_versions_are_compared_by_the_same_questions() -> None:
    with pytest.raises(ValueError, match="by the same questions"):
        judge(scores(0.8, 0.6), scores(0.8, 0.6)[1:], ((), ()))
    with pytest.raises(ValueError, match="by the same questions"):
        judge([], [], ((), ()))
