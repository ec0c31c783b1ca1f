"""What goes wrong is said in plain words, and nothing that the user did is lost."""

from __future__ import annotations

import io
import shutil
from decimal import Decimal

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from support.sam_page import SamPage

pytestmark = [pytest.mark.server, pytest.mark.e2e]


@pytest.fixture
def with_disc(sam_page, disc) -> SamPage:
    buffer = io.BytesIO()
    Image.fromarray(disc[0]).save(buffer, "PNG")
    sam_page.drop("disc.png", buffer.getvalue())
    sam_page.wait_until_idle("No prompts yet")
    return sam_page


def alert(sam_page: SamPage):
    return sam_page.page.get_by_role("alert")


def test_a_file_that_is_no_image(sam_page):
    sam_page.drop("letter.txt", b"Dear colleague, ...")
    detail = sam_page.server.segment(b"Dear colleague, ...", '{"automatic": false}').json()["detail"]
    expect(alert(sam_page)).to_have_text(detail[0].upper() + detail[1:] + ".")
    assert sam_page.page.locator("#stage").is_hidden()
    sam_page.expect_complaints(415)


def test_a_folder_or_several_files(sam_page, disc, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(disc[0]).save(path)
    sam_page.drop_paths(*paths)
    expect(alert(sam_page)).to_contain_text("These are 2 files")
    sam_page.drop_paths(tmp_path)
    expect(alert(sam_page)).to_contain_text("This is a folder")
    assert sam_page.answers() == []
    sam_page.drop_paths(paths[1])
    sam_page.wait_until_idle("b.png: 240 × 200 pixels")
    expect(alert(sam_page)).to_be_empty()


def test_what_the_server_refuses_stays_and_can_be_completed(with_disc):
    """A negative point alone is nothing to segment; with a positive one after it, it is."""
    with_disc.click(150, 110, "right")
    expect(alert(with_disc)).to_contain_text("Nothing marks the object")
    assert with_disc.prompts() == ["Negative point at 150, 110"]
    with_disc.click(130, 90)
    with_disc.wait_until_idle("Mask of")
    expect(alert(with_disc)).to_be_empty()
    asked = with_disc.requests()[-1]
    assert asked["negative_points"] == [{"x": 150.0, "y": 110.0}]
    assert asked["positive_points"] == [{"x": 130.0, "y": 90.0}]
    with_disc.expect_complaints(422)


def test_a_refused_value_names_the_field(with_disc):
    """FastAPI's own list of what is wrong reads as a sentence."""
    with_disc.page.get_by_label("Label").fill("back\\slash")
    with_disc.click(130, 90)
    expect(alert(with_disc)).to_contain_text("label")
    expect(alert(with_disc)).to_contain_text("without backslashes")
    with_disc.page.get_by_label("Label").fill("disc")
    with_disc.page.get_by_role("button", name="Try again").click()
    with_disc.wait_until_idle("Mask of")
    assert with_disc.requests()[-1]["label"] == "disc"
    with_disc.expect_complaints(422)


def test_a_server_that_cannot_be_reached(with_disc):
    with_disc.page.context.set_offline(True)
    with_disc.click(130, 90)
    expect(alert(with_disc)).to_contain_text("cannot be reached")
    assert with_disc.prompts() == ["Positive point at 130, 90"]
    assert np.any(with_disc.canvas("image"))
    with_disc.page.context.set_offline(False)
    with_disc.page.get_by_role("button", name="Try again").click()
    with_disc.wait_until_idle("Mask of")
    expect(alert(with_disc)).to_be_empty()
    assert all("ERR_INTERNET_DISCONNECTED" in text for text in with_disc.complaints) and with_disc.complaints
    with_disc.complaints.clear()


def test_an_error_can_be_dismissed(with_disc):
    with_disc.click(150, 110, "right")
    expect(alert(with_disc)).not_to_be_empty()
    with_disc.page.get_by_role("button", name="Dismiss").click()
    expect(alert(with_disc)).to_be_empty()
    assert with_disc.page.get_by_role("button", name="Try again").is_hidden()
    with_disc.expect_complaints(422)


def test_an_image_that_the_server_no_longer_has_is_sent_again(with_disc):
    """Results are deleted when they are old; the page still has the file and all prompts."""
    with_disc.click(130, 90)
    with_disc.wait_until_idle("Mask of")
    for timestamp in with_disc.answers():
        shutil.rmtree(with_disc.server.results / f"{Decimal(timestamp):.6f}")
    gone = len(with_disc.answers())
    with_disc.click(120, 80)
    with_disc.wait_until_idle("Mask of")
    again = [with_disc.manifest(timestamp)["request"] for timestamp in with_disc.answers()[gone:]]
    assert again[0] == {"automatic": False}
    assert again[1]["positive_points"] == [{"x": 130.0, "y": 90.0}, {"x": 120.0, "y": 80.0}]
    with_disc.expect_complaints(404)
