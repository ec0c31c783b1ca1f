import numpy as np
import pytest

from lib.sam.prompts import Prompts
from lib.sam.refinement import EarlierObject, area_key, continue_from, find_earlier, is_unchanged

BOX = np.array([10.0, 20.0, 50.0, 60.0])


def earlier(prompts: Prompts, level: float = 1.0) -> EarlierObject:
    return EarlierObject(prompts, np.ones(1, np.float32), np.full((1, 256, 256), level, np.float32))


def clicks(*foreground, background=(), box=None) -> Prompts:
    return Prompts.from_clicks(foreground, background, box=box)


@pytest.mark.parametrize(
    ("before", "now", "extends"),
    [
        (clicks((1, 2)), clicks((1, 2), (3, 4)), True),
        (clicks((1, 2)), clicks((3, 4), (1, 2)), True),
        (clicks((1, 2)), clicks((1, 2), background=[(9, 9)]), True),
        (clicks(box=BOX), clicks((30, 30), box=BOX), True),
        (clicks((1, 2)), clicks((1, 2)), True),
        (clicks((1, 2), (3, 4)), clicks((1, 2)), False),
        (clicks((1, 2)), clicks((1, 3), (3, 4)), False),
        (clicks((1, 2), background=[(9, 9)]), clicks((1, 2), (9, 9)), False),
        (clicks(box=BOX), clicks((30, 30)), False),
        (clicks((30, 30)), clicks((30, 30), box=BOX), False),
        (clicks(box=BOX), clicks((30, 30), box=BOX + 1), False),
    ],
)
def test_prompts_extend_those_that_they_contain(before, now, extends):
    assert (find_earlier(now, [earlier(before)]) is not None) == extends


def test_of_several_the_one_with_the_most_points_is_gone_on_from():
    one, two = earlier(clicks((1, 2)), 1), earlier(clicks((1, 2), (3, 4)), 2)
    found = find_earlier(clicks((1, 2), (3, 4), (5, 6)), [one, two])
    assert found is two
    prompts = continue_from(clicks((1, 2), (3, 4), (5, 6)), two)
    assert (prompts.mask_logits == 2).all() and len(prompts.points) == 3


def test_unchanged_means_that_nothing_was_added():
    before = earlier(clicks((1, 2), background=[(9, 9)], box=BOX))
    assert is_unchanged(clicks((1, 2), background=[(9, 9)], box=BOX), before)
    assert not is_unchanged(clicks((1, 2), (3, 4), background=[(9, 9)], box=BOX), before)


def test_an_area_beside_the_object_that_was_taken_away_makes_it_another():
    one, two = np.eye(5, dtype=bool), np.ones((5, 5), dtype=bool)
    before = EarlierObject.of(clicks((1, 2)), np.ones(1, np.float32), np.ones((1, 256, 256), np.float32), [one])
    assert find_earlier(clicks((1, 2)), [before]) is None
    assert find_earlier(clicks((1, 2)), [before], [area_key(two)]) is None
    assert find_earlier(clicks((1, 2)), [before], [area_key(two), area_key(one)]) is before


def test_an_area_is_part_of_what_is_extended_and_not_kept():
    area = np.zeros((80, 70), dtype=bool)
    area[20:60, 10:50] = True
    drawn = Prompts(points=[(12, 22)], labels=[1], box=BOX, area=area)
    before = EarlierObject.of(drawn, np.ones(1, np.float32), np.ones((1, 256, 256), np.float32))
    assert before.prompts.area is None
    assert find_earlier(drawn, [before]) is before and is_unchanged(drawn, before)
    assert find_earlier(clicks((12, 22), box=BOX), [before]) is None
    smaller = area.copy()
    smaller[20, 10] = False
    assert find_earlier(Prompts(points=[(12, 22)], labels=[1], box=BOX, area=smaller), [before]) is None
    assert continue_from(drawn, before).area is None
