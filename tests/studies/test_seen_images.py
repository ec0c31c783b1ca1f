"""Who is refused when an image has changed, and until when."""

from __future__ import annotations

import pytest

from lib.imaging.image import ImageChangedError
from lib.studies import seen_images
from lib.studies.seen_images import SeenImages, Viewer

SOMEBODY, OTHER = Viewer("address"), Viewer("other address")
SLICER = Viewer("address", "slicer")


@pytest.fixture
def seen() -> SeenImages:
    return SeenImages()


def test_what_is_as_it_was_is_let_through(seen):
    for _ in range(3):
        seen.meant(SOMEBODY, "image", "first")
    assert seen.known(SOMEBODY, "image") == "first" and seen.known(OTHER, "image") is None


def test_who_has_not_seen_it_before_sees_it_now(seen):
    seen.meant(SOMEBODY, "image", "first")
    seen.meant(OTHER, "image", "second")
    seen.meant(SOMEBODY, "another image", "second")


def test_who_reads_it_elsewhere_is_told_once(seen):
    seen.meant(SOMEBODY, "image", "first")
    with pytest.raises(ImageChangedError, match="load it again"):
        seen.meant(SOMEBODY, "image", "second")
    seen.meant(SOMEBODY, "image", "second")


def test_who_reads_it_here_is_refused_until_it_is_read_anew(seen):
    seen.handed_out(SOMEBODY, "image", "first")
    seen.meant(SOMEBODY, "image", "first")
    for _ in range(3):
        with pytest.raises(ImageChangedError):
            seen.meant(SOMEBODY, "image", "second")
    seen.handed_out(SOMEBODY, "image", "second")
    seen.meant(SOMEBODY, "image", "second")


def test_any_name_of_the_same_content_will_do(seen):
    seen.handed_out(SOMEBODY, "image", "by instances")
    seen.meant(SOMEBODY, "image", "by content", "by instances")
    assert seen.known(SOMEBODY, "image") == "by content"
    with pytest.raises(ImageChangedError):  # the same instances, but not the same content
        seen.meant(SOMEBODY, "image", "other content", "by instances")


def test_a_client_that_downloads_without_its_name_has_seen_it_under_its_name(seen):
    seen.meant(SLICER, "image", "first")
    seen.handed_out(SOMEBODY, "image", "second")
    seen.meant(SLICER, "image", "second")
    with pytest.raises(ImageChangedError):
        seen.meant(SLICER, "image", "third")


def test_what_one_of_a_place_clicks_on_is_not_what_the_other_saw(seen):
    seen.meant(SLICER, "image", "first")
    seen.meant(Viewer("address", "other"), "image", "second")
    seen.meant(SOMEBODY, "image", "second")
    with pytest.raises(ImageChangedError):
        seen.meant(SLICER, "image", "second")


def test_the_oldest_sights_are_forgotten(seen, monkeypatch):
    monkeypatch.setattr(seen_images, "_MAX_SIGHTS", 2)
    for image in ("a", "b", "c"):
        seen.meant(SOMEBODY, image, "first")
    assert [seen.known(SOMEBODY, image) for image in ("a", "b", "c")] == [None, "first", "first"]
