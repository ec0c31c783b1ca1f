"""What goes wrong is said in plain words, and nothing that the user did is lost."""

from __future__ import annotations

import io
import shutil
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import requests
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


def delete_results(sam_page: SamPage) -> int:
    """Delete all that the page got so far from the server's disk; answers how many results that were."""
    timestamps = sam_page.answers()
    for timestamp in timestamps:
        shutil.rmtree(sam_page.server.results / f"{Decimal(timestamp):.6f}", ignore_errors=True)
    return len(timestamps)


def requests_since(sam_page: SamPage, count: int) -> list[dict[str, Any]]:
    """The page's requests but the first ``count``."""
    return [sam_page.manifest(timestamp)["request"] for timestamp in sam_page.answers()[count:]]


def test_a_file_that_is_no_image(sam_page):
    sam_page.drop("letter.txt", b"Dear colleague, ...")
    detail = sam_page.server.segment(b"Dear colleague, ...", '{"automatic": false}').json()["detail"]
    expect(alert(sam_page)).to_have_text(detail[0].upper() + detail[1:] + ".")
    assert sam_page.page.locator("#stage").is_hidden()
    sam_page.expect_complaints(415)


def test_a_wrong_file_leaves_what_was_open(with_disc):
    with_disc.click(130, 90)
    with_disc.wait_until_idle("Mask of")
    picture, mask = with_disc.canvas("image"), with_disc.canvas("mask")
    with_disc.drop("letter.txt", b"Dear colleague, ...")
    expect(alert(with_disc)).not_to_be_empty()
    assert np.array_equal(with_disc.canvas("image"), picture) and np.array_equal(with_disc.canvas("mask"), mask)
    assert with_disc.prompts() == ["Positive point at 130, 90"]
    with_disc.click(120, 80)
    with_disc.wait_until_idle("Mask of")
    expect(alert(with_disc)).to_be_empty()
    assert len(with_disc.requests()[-1]["positive_points"]) == 1 and len(with_disc.prompts()) == 2
    with_disc.expect_complaints(415)


def test_files_that_are_no_series(sam_page, disc, tmp_path):
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        Image.fromarray(disc[0]).save(path)
    sam_page.drop_paths(*paths)
    expect(alert(sam_page)).not_to_be_empty()
    assert sam_page.page.locator("#stage").is_hidden()
    sam_page.complaints.clear()
    (tmp_path / "empty").mkdir()
    sam_page.drop_paths(tmp_path / "empty")
    expect(alert(sam_page)).to_have_text("The folder has no files.")
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


def test_an_error_about_what_is_no_longer_wanted_is_not_shown(with_disc):
    """While the negative point alone is being refused, a positive one comes: all keys before any answer can."""
    with_disc.page.locator("#stage").evaluate("""(stage) => {
        for (const key of ["n", "ArrowUp", "Enter"]) {
            stage.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey: true }));
        }
    }""")
    with_disc.wait_until_idle("Mask of")
    expect(alert(with_disc)).to_be_empty()
    assert len(with_disc.prompts()) == 2
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
    """Results and sessions are deleted when they are old; the page still has the file and all prompts."""
    with_disc.click(130, 90)
    with_disc.wait_until_idle("Mask of")
    gone = delete_results(with_disc)
    with_disc.click(120, 80)
    with_disc.wait_until_idle("Mask of")
    (again,) = requests_since(with_disc, gone)
    assert again["positive_points"] == [{"x": 130.0, "y": 90.0}, {"x": 120.0, "y": 80.0}]
    with_disc.expect_complaints(404)

    session = again["session"]
    assert requests.delete(f"{with_disc.server.url}/session/{session}", timeout=30).ok
    delete_results(with_disc)
    with_disc.click(140, 100)
    with_disc.wait_until_idle("Mask of")
    last = requests_since(with_disc, -1)[0]
    assert last["session"] != session and len(last["positive_points"]) == 3
    with_disc.expect_complaints(404, 404)


def test_chosen_candidates_hold_when_the_image_is_sent_again(with_disc):
    choices = with_disc.page.locator("#candidates").get_by_role("radio")
    with_disc.page.get_by_label("Offer three candidates").check()
    for x, candidate in ((130, 2), (125, 1)):
        with_disc.click(x, 90)
        with_disc.wait_until_idle("ask")
        choices.nth(candidate).check()
        with_disc.wait_until_idle("ask")
    gone = delete_results(with_disc)
    with_disc.click(135, 95)
    with_disc.wait_until_idle("ask")
    steps = [
        ([(point["x"], point["y"]) for point in asked["positive_points"]], asked.get("candidate"))
        for asked in requests_since(with_disc, gone)
    ]
    assert steps == [([(130, 90)], None), ([(125, 90)], 2), ([(135, 95)], 1)]
    with_disc.expect_complaints(404)
