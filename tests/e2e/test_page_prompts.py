"""Points, boxes, undo and what else makes a mask on the page; what it shows is what the server stored."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from lib.imaging.palette import PALETTE
from support.sam_page import SamPage

pytestmark = [pytest.mark.server, pytest.mark.e2e]

CENTRE = (130, 90)
EMPTY = "No prompts yet"


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def stored(sam_page: SamPage, timestamp: str, view: str, candidate: int = 0) -> np.ndarray:
    """A view of a result as the server gives it to anybody."""
    answer = sam_page.server.get(f"/get_segmented_image/{timestamp}?view={view}&candidate={candidate}")
    assert answer.status_code == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.content)))


def shows_mask(sam_page: SamPage, timestamp: str, candidate: int = 0) -> np.ndarray:
    """The page shows exactly the mask of that result; answers the mask."""
    labels = stored(sam_page, timestamp, "mask", candidate)
    shown = sam_page.canvas("mask")
    assert np.array_equal(shown[..., 3] > 0, labels > 0)
    assert np.array_equal(shown[..., 3] > 0, shown[..., 3] == 128)
    assert np.abs(shown[labels > 0][:, :3].astype(int) - PALETTE[labels[labels > 0]]).max(initial=0) <= 1
    return labels


@pytest.fixture
def with_disc(sam_page, disc) -> SamPage:
    """The page with the disc on it."""
    sam_page.drop("disc.png", png(disc[0]))
    sam_page.wait_until_idle(EMPTY)
    return sam_page


def test_a_dropped_png_is_shown_as_it_is(with_disc, disc):
    assert np.array_equal(with_disc.canvas("image")[..., :3], disc[0])
    assert not with_disc.canvas("mask").any()
    assert with_disc.requests() == []
    assert with_disc.page.locator("#file").evaluate("(input) => input.files[0].name") == "disc.png"


def test_a_click_brings_the_servers_mask(with_disc, disc):
    with_disc.click(*CENTRE)
    said = with_disc.wait_until_idle("Mask of")
    (timestamp,) = with_disc.answers()
    labels = shows_mask(with_disc, timestamp)
    assert labels[CENTRE[1], CENTRE[0]] == 1
    assert said.startswith(f"Mask of {np.count_nonzero(labels):,} pixels, predicted IoU 0.")
    (asked,) = with_disc.requests()
    assert asked["positive_points"] == [{"x": 130.0, "y": 90.0}] and asked["frame"] == 0 and "refine" not in asked


def test_a_drag_is_a_box_in_any_direction(with_disc, disc):
    with_disc.drag(170, 130, 90, 50)
    with_disc.wait_until_idle("Mask of")
    labels = shows_mask(with_disc, with_disc.answers()[-1])
    overlap = np.count_nonzero((labels == 1) & disc[1])
    assert 2 * overlap / (np.count_nonzero(labels) + np.count_nonzero(disc[1])) > 0.85
    assert with_disc.requests()[-1]["rectangles"] == [{"startX": 90.0, "startY": 50.0, "width": 80.0, "height": 80.0}]
    assert with_disc.prompts() == ["Box from 90, 50 to 170, 130"]


def test_two_clicks_in_box_mode_are_a_box(with_disc):
    with_disc.page.get_by_role("radio", name="Box").check()
    with_disc.click(90, 50)
    assert "Box started at 90, 50" in with_disc.page.locator("#status").inner_text()
    with_disc.click(170, 130)
    with_disc.wait_until_idle("Mask of")
    assert with_disc.prompts() == ["Box from 90, 50 to 170, 130"]


def test_several_boxes_are_parts_of_the_object(with_disc):
    with_disc.drag(90, 50, 170, 130)
    with_disc.drag(10, 150, 60, 190)
    with_disc.wait_until_idle("Mask of")
    labels = stored(with_disc, with_disc.answers()[-1], "mask")
    assert {1, 2} <= set(labels.reshape(-1).tolist())
    shown = with_disc.canvas("mask")
    assert np.array_equal(shown[..., 3] > 0, labels > 0)
    assert np.abs(shown[labels > 0][:, :3].astype(int) - PALETTE[1]).max() <= 1


@pytest.mark.parametrize("how", ["right button", "Shift", "Alt", "mode"])
def test_a_negative_point(with_disc, how):
    with_disc.drag(90, 50, 170, 130)
    with_disc.wait_until_idle("Mask of")
    before = with_disc.answers()[-1]
    if how == "right button":
        with_disc.click(150, 110, "right")
    elif how == "mode":
        with_disc.page.get_by_role("radio", name="Negative").check()
        with_disc.click(150, 110)
    else:
        with_disc.page.keyboard.down(how)
        with_disc.click(150, 110)
        with_disc.page.keyboard.up(how)
    with_disc.wait_until_idle("Mask of")
    asked = with_disc.requests()[-1]
    assert asked["negative_points"] == [{"x": 150.0, "y": 110.0}] and asked["refine"] == float(before)
    assert "rectangles" not in asked and "positive_points" not in asked  # only what is new is sent
    shows_mask(with_disc, with_disc.answers()[-1])
    assert with_disc.prompts() == ["Box from 90, 50 to 170, 130", "Negative point at 150, 110"]


@pytest.mark.parametrize("how", ["button", "Control+z", "u"])
def test_undo_shows_what_was_before_without_asking_again(with_disc, how):
    with_disc.click(*CENTRE)
    with_disc.wait_until_idle("Mask of")
    with_disc.click(100, 80)
    with_disc.wait_until_idle("Mask of")
    first, second = with_disc.answers()
    shows_mask(with_disc, second)

    def undo() -> None:
        if how == "button":
            with_disc.page.get_by_role("button", name="Undo").click()
        else:
            with_disc.page.locator("#stage").focus()
            with_disc.page.keyboard.press(how)

    undo()
    with_disc.wait_until_idle("Mask of")
    shows_mask(with_disc, first)
    assert with_disc.prompts() == ["Positive point at 130, 90"]
    undo()
    with_disc.wait_until_idle(EMPTY)
    assert not with_disc.canvas("mask").any() and with_disc.prompts() == []
    assert with_disc.page.get_by_role("button", name="Undo").is_disabled()
    assert len(with_disc.answers()) == 2


def test_clear_can_be_undone(with_disc):
    with_disc.click(*CENTRE)
    with_disc.wait_until_idle("Mask of")
    with_disc.page.get_by_role("button", name="Clear").click()
    with_disc.wait_until_idle(EMPTY)
    assert with_disc.prompts() == [] and not with_disc.canvas("mask").any()
    with_disc.page.get_by_role("button", name="Undo").click()
    with_disc.wait_until_idle("Mask of")
    shows_mask(with_disc, with_disc.answers()[-1])


def test_a_prompt_in_the_middle_is_removed(with_disc):
    for x, y in (CENTRE, (100, 80), (150, 100)):
        with_disc.click(x, y)
        with_disc.wait_until_idle("Mask of")
    with_disc.page.get_by_role("button", name="Remove positive point at 100, 80").click()
    with_disc.wait_until_idle("Mask of")
    first = with_disc.answers()[0]
    asked = with_disc.requests()[-1]
    assert asked["refine"] == float(first)  # the result of what comes before it still holds
    assert asked["positive_points"] == [{"x": 150.0, "y": 100.0}]
    assert with_disc.prompts() == ["Positive point at 130, 90", "Positive point at 150, 100"]
    shows_mask(with_disc, with_disc.answers()[-1])


def test_clicks_during_a_request_go_together_into_the_next(with_disc):
    """Every point is drawn at once, one request runs at a time, and the newest state is shown in the end."""
    points = [CENTRE, (120, 80), (140, 100), (125, 95)]
    held: list[Any] = []
    with_disc.page.route("**/segment_input_image/", lambda route: route.continue_() if held else held.append(route))
    for number, (x, y) in enumerate(points, start=1):
        with_disc.click(x, y)
        assert with_disc.page.locator("#marks g.positive").count() == number
    held[0].continue_()
    with_disc.wait_until_idle("Mask of")
    requests = with_disc.requests()
    sent = [(point["x"], point["y"]) for asked in requests for point in asked["positive_points"]]
    assert sent == [(float(x), float(y)) for x, y in points]
    assert [len(asked["positive_points"]) for asked in requests] == [1, 3]
    shows_mask(with_disc, with_disc.answers()[-1])


def test_candidates(with_disc):
    with_disc.page.get_by_label("Offer three candidates").check()
    with_disc.click(*CENTRE)
    with_disc.wait_until_idle("Mask of")
    timestamp = with_disc.answers()[-1]
    choices = with_disc.page.locator("#candidates").get_by_role("radio")
    assert choices.count() == 3 and choices.nth(0).is_checked()
    pictures = with_disc.page.locator("#candidates canvas")
    expect(pictures).to_have_count(3)
    drawn = [pictures.nth(n).evaluate("(canvas) => canvas.toDataURL()") for n in range(3)]
    assert len(set(drawn)) == 3, "each shows its own mask"
    choices.nth(2).check()
    with_disc.wait_until_idle("ask")
    third = shows_mask(with_disc, timestamp, candidate=2)
    assert not np.array_equal(third, stored(with_disc, timestamp, "mask"))
    with_disc.click(120, 80)
    with_disc.wait_until_idle("ask")
    asked = with_disc.requests()[-1]
    assert asked["candidate"] == 2 and asked["refine"] == float(timestamp)
    with_disc.page.get_by_role("button", name="Undo").click()
    with_disc.wait_until_idle("ask")
    assert choices.nth(2).is_checked()
    shows_mask(with_disc, timestamp, candidate=2)


def test_a_point_and_a_box_s_corner_are_moved(with_disc, disc):
    with_disc.click(40, 30)
    with_disc.wait_until_idle("Mask of")
    with_disc.drag(40, 30, *CENTRE)
    with_disc.wait_until_idle("Mask of")
    assert with_disc.prompts() == ["Positive point at 130, 90"]
    moved = shows_mask(with_disc, with_disc.answers()[-1])
    assert moved[CENTRE[1], CENTRE[0]] and "refine" not in with_disc.requests()[-1]

    with_disc.drag(90, 50, 150, 110)
    with_disc.wait_until_idle("Mask of")
    with_disc.drag(150, 50, 170, 40)
    with_disc.wait_until_idle("Mask of")
    assert with_disc.prompts()[1:] == ["Box from 90, 40 to 170, 110"]
    with_disc.drag(90, 110, 170, 110)
    with_disc.wait_until_idle("two different corners")
    assert with_disc.prompts()[1:] == ["Box from 90, 40 to 170, 110"]

    handle = with_disc.page.get_by_role("button", name="Move positive point at 130, 90 with the arrow keys")
    handle.press("ArrowLeft")
    with_disc.page.keyboard.press("Shift+ArrowDown")
    with_disc.wait_until_idle("Mask of")
    assert with_disc.prompts() == ["Positive point at 129, 100", "Box from 90, 40 to 170, 110"]
    box = with_disc.page.locator("#prompts .move").nth(1)
    for _ in range(6):
        box.press("Shift+ArrowUp")
    with_disc.wait_until_idle("Mask of")
    assert with_disc.prompts()[1:] == ["Box from 90, 0 to 170, 70"], "it stays within the picture"
    for _ in range(6):
        with_disc.page.keyboard.press("Control+z")
    assert with_disc.prompts() == ["Positive point at 130, 90", "Box from 90, 40 to 170, 110"]
    with_disc.page.keyboard.press("Control+z")
    assert with_disc.prompts()[1:] == ["Box from 90, 50 to 150, 110"]


def test_two_fingers_zoom_and_pan_and_set_nothing(chromium, server, disc):
    phone = SamPage(chromium, server, has_touch=True)
    try:
        phone.drop("disc.png", png(disc[0]))
        phone.wait_until_idle(EMPTY)
        before = phone.page.locator("#stage").bounding_box()
        x, y = phone.place(*CENTRE)
        fingers = phone.page.context.new_cdp_session(phone.page)

        def touch(kind: str, *places: tuple[float, float]) -> None:
            points = [{"x": left, "y": top, "id": n} for n, (left, top) in enumerate(places)]
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        touch("touchStart", (x - 30, y))
        touch("touchStart", (x - 30, y), (x + 30, y))
        for spread in (45, 60, 90):
            touch("touchMove", (x - spread, y), (x + spread, y))
        touch("touchEnd", (x - 90, y))
        touch("touchEnd")
        after = phone.page.locator("#stage").bounding_box()
        assert before and after and after["width"] == pytest.approx(3 * before["width"], rel=0.02)
        assert phone.place(*CENTRE) == pytest.approx((x, y), abs=15), "what is between the fingers stays there"
        assert phone.prompts() == [] and phone.requests() == []
        phone.page.touchscreen.tap(*phone.place(*CENTRE))
        phone.wait_until_idle("Mask of")
        assert phone.prompts() == ["Positive point at 130, 90"]
    finally:
        phone.close()
    assert phone.complaints == []


def test_views_are_coloured_as_the_servers(with_disc):
    with_disc.drag(90, 50, 170, 130)
    with_disc.wait_until_idle("Mask of")
    timestamp = with_disc.answers()[-1]
    image = stored(with_disc, timestamp, "image").astype(float)

    def composed() -> np.ndarray:
        mask = with_disc.canvas("mask").astype(float)
        share = mask[..., 3:] / 255
        return image * (1 - share) + mask[..., :3] * share

    assert np.abs(composed() - stored(with_disc, timestamp, "overlay")).max() <= 2
    with_disc.page.get_by_role("radio", name="Contour").check()
    assert np.array_equal(composed(), stored(with_disc, timestamp, "contour"))
    with_disc.page.get_by_role("radio", name="Image").check()
    assert np.array_equal(composed(), image)


def test_zoom_keeps_pixels_where_they_are(with_disc):
    """A zoomed image has its pixels under the pointer where it had them, and clicks still name them."""
    with_disc.page.mouse.move(*with_disc.place(200, 40))
    for _ in range(8):
        with_disc.page.mouse.wheel(0, -100)
    assert with_disc.page.locator("#stage.pixelated").count() == 1
    with_disc.click(200, 40)
    with_disc.wait_until_idle("ask")
    assert with_disc.prompts() == ["Positive point at 200, 40"]
    zoomed = with_disc.page.locator("#stage").bounding_box()
    with_disc.page.get_by_role("button", name="Fit the image into the window").click()
    fitted = with_disc.page.locator("#stage").bounding_box()
    viewport = with_disc.page.locator("#viewport").bounding_box()
    assert zoomed["width"] > 3 * fitted["width"]
    assert fitted["width"] <= viewport["width"] + 1 and fitted["height"] <= viewport["height"] + 1
