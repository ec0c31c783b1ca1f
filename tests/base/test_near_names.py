from __future__ import annotations

import pytest

from lib.base.near_names import meant, unknown

KNOWN = ("positive_points", "rectangles", "startX", "width")
OTHERS = {"bbox": ("boxes", "rectangles"), "x": ("startX",), "gaps": ("slices",), "with": ("startX",)}


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("positve_points", "positive_points"),
        ("PositivePoints", "positive_points"),
        ("start-x", "startX"),
        ("bbox", "rectangles"),
        ("BBox", "rectangles"),
        ("x", "startX"),
        ("rectangle", "rectangles"),
        ("with", "startX"),  # what others call it goes before the nearest spelling
        ("gaps", None),  # others call something else so, which is not here
        ("zzz", None),
        ("", None),
    ],
)
def test_what_was_meant(name, right):
    assert meant(name, KNOWN, OTHERS) == right


def test_a_sentence_ends_with_what_was_meant_or_with_all_there_is():
    assert unknown("widht", KNOWN) == "did you mean width?"
    assert unknown("zzz", ["b", "a"]) == "there are b, a"
