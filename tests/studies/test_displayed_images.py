"""Who is refused when an image has changed, and until when."""

from __future__ import annotations

import pytest

from lib.imaging.image import ImageChangedError
from lib.studies import displayed_images
from lib.studies.displayed_images import DisplayedImages, Viewer

SOMEBODY, OTHER = Viewer("address"), Viewer("other address")
SLICER = Viewer("address", "slicer")


@pytest.fixture
def seen() -> DisplayedImages:
    return DisplayedImages()


def test_what_is_as_it_was_is_let_through(seen):
    for _ in range(3):
        seen.check_displayed(SOMEBODY, "image", "first")
    assert seen.known(SOMEBODY, "image") == "first" and seen.known(OTHER, "image") is None


def test_who_has_not_seen_it_before_sees_it_now(seen):
    seen.check_displayed(SOMEBODY, "image", "first")
    seen.check_displayed(OTHER, "image", "second")
    seen.check_displayed(SOMEBODY, "another image", "second")


def test_who_reads_it_elsewhere_is_told_once(seen):
    seen.check_displayed(SOMEBODY, "image", "first")
    with pytest.raises(ImageChangedError, match="load it again"):
        seen.check_displayed(SOMEBODY, "image", "second")
    seen.check_displayed(SOMEBODY, "image", "second")


def test_who_reads_it_here_is_refused_until_it_is_read_anew(seen):
    seen.record_sent(SOMEBODY, "image", "first")
    seen.check_displayed(SOMEBODY, "image", "first")
    for _ in range(3):
        with pytest.raises(ImageChangedError):
            seen.check_displayed(SOMEBODY, "image", "second")
    seen.record_sent(SOMEBODY, "image", "second")
    seen.check_displayed(SOMEBODY, "image", "second")


def test_any_name_of_the_same_content_will_do(seen):
    seen.record_sent(SOMEBODY, "image", "by instances")
    seen.check_displayed(SOMEBODY, "image", "by content", "by instances")
    assert seen.known(SOMEBODY, "image") == "by content"
    with pytest.raises(ImageChangedError):  # the same instances, but not the same content
        seen.check_displayed(SOMEBODY, "image", "other content", "by instances")


def test_a_client_that_downloads_without_its_name_has_seen_it_under_its_name(seen):
    seen.check_displayed(SLICER, "image", "first")
    seen.record_sent(SOMEBODY, "image", "second")
    seen.check_displayed(SLICER, "image", "second")
    with pytest.raises(ImageChangedError):
        seen.check_displayed(SLICER, "image", "third")


def test_what_one_of_a_place_clicks_on_is_not_what_the_other_saw(seen):
    seen.check_displayed(SLICER, "image", "first")
    seen.check_displayed(Viewer("address", "other"), "image", "second")
    seen.check_displayed(SOMEBODY, "image", "second")
    with pytest.raises(ImageChangedError):
        seen.check_displayed(SLICER, "image", "second")


def test_the_oldest_sights_are_forgotten(monkeypatch):
    monkeypatch.setattr(displayed_images, "_MAX_SIGHTS", 2)
    seen = DisplayedImages()
    for image in ("a", "b", "c"):
        seen.check_displayed(SOMEBODY, image, "first")
    assert [seen.known(SOMEBODY, image) for image in ("a", "b", "c")] == [None, "first", "first"]
