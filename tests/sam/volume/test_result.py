"""Which slices of a result a user should look at."""

from __future__ import annotations

import numpy as np

from lib.sam.volume.result import SliceMask, Source, Stop, VolumeResult


def a_mask(source: Source = "followed", score: float = 0.9, presence: float = 0.99) -> SliceMask:
    logits = np.ones((4, 4), np.float16)
    return SliceMask(logits, np.packbits(np.ones((4, 4), bool)), (4, 4), source, score, presence)


def uncertain(found: dict[int, SliceMask], *stops: Stop) -> list[int]:
    return VolumeResult(found, stops, {}, {}, None).uncertain_slices


def test_a_doubtful_border_and_a_doubtful_presence_are_named_and_a_user_s_own_prompts_are_not():
    found = {
        2: a_mask(score=0.6),
        3: a_mask(),
        4: a_mask("prompts", score=0.5),
        5: a_mask("blended", presence=0.7),
    }
    assert uncertain(found) == [2, 5]
    assert uncertain({3: a_mask()}) == []


def test_a_slice_on_which_it_may_still_be_is_named_too():
    found = {3: a_mask(), 4: a_mask("prompts")}
    assert uncertain(found, Stop(4, 2, "object ended", 0.4), Stop(4, 5, "object ended", 0.05)) == [2]
    assert uncertain(found, Stop(4, 3, "object ended", 0.4)) == [], "it was found there from the other side"
    assert uncertain(found, Stop(4, -1, "end of slices")) == []
