"""The page without a mouse."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from support.sam_page import SamPage

pytestmark = [pytest.mark.server, pytest.mark.e2e]


def tab_to(sam_page: SamPage, selector: str) -> None:
    """Press Tab until the element has the focus."""
    for _ in range(40):
        sam_page.page.keyboard.press("Tab")
        if sam_page.page.evaluate("(selector) => document.activeElement.matches(selector)", selector):
            return
    pytest.fail(f"Tab does not reach {selector}")


@pytest.fixture
def on_disc(sam_page, disc, tmp_path) -> SamPage:
    """The page with the disc chosen by key, and the focus on the image, whose crosshair is in its middle."""
    Image.fromarray(disc[0][..., 0]).save(tmp_path / "disc.png")  # grey: it has a window
    sam_page.page.on("filechooser", lambda _: None)  # from here on, as it takes a while to come into force
    tab_to(sam_page, "#file")
    with sam_page.page.expect_file_chooser() as chooser:
        sam_page.page.keyboard.press("Enter")
    chooser.value.set_files(tmp_path / "disc.png")
    sam_page.wait_until_idle("No prompts yet")
    tab_to(sam_page, "#stage")
    return sam_page


def press(sam_page: SamPage, *keys: str) -> None:
    for key in keys:
        sam_page.page.keyboard.press(key)


def test_from_loading_to_a_mask(on_disc):
    press(on_disc, "Shift+ArrowRight", "Shift+ArrowUp", "Enter")
    on_disc.wait_until_idle("Mask of")
    assert on_disc.prompts() == ["Positive point at 130, 90"]
    answer = on_disc.server.get(f"/get_segmented_image/{on_disc.answers()[-1]}?view=mask")
    mask = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert mask[90, 130] == 1 and np.array_equal(on_disc.canvas("mask")[..., 3] > 0, mask > 0)


def test_the_crosshair_moves_by_one_and_by_ten_and_stays_on_the_image(on_disc):
    steps = [
        ("ArrowLeft", "119, 100"),
        ("ArrowDown", "119, 101"),
        ("Shift+ArrowRight", "129, 101"),
        ("Shift+ArrowUp", "129, 91"),
        *[("Shift+ArrowDown", f"129, {min(199, y)}") for y in range(101, 231, 10)],
    ]
    for key, place in steps:
        press(on_disc, key)
        x, y = place.split(", ")
        assert on_disc.page.locator("#position").inner_text().startswith(f"x {x}, y {y} · ")
    expect(on_disc.page.locator("#spoken-position")).to_have_text("129, 199")
    assert on_disc.page.locator("#marks .crosshair").count() == 1


@pytest.mark.parametrize("key", ["n", "N", "-"])
def test_a_negative_point(on_disc, key):
    press(on_disc, "Enter", "Shift+ArrowDown", key)
    on_disc.wait_until_idle("ask")
    assert on_disc.prompts() == ["Positive point at 120, 100", "Negative point at 120, 110"]


def test_a_box_and_undo(on_disc):
    press(on_disc, *["Shift+ArrowLeft"] * 3, *["Shift+ArrowUp"] * 5, "b")
    assert "Box started at 90, 50" in on_disc.page.locator("#status").inner_text()
    press(on_disc, *["Shift+ArrowRight"] * 8, *["Shift+ArrowDown"] * 8)
    assert on_disc.page.locator("#marks .draft").count() == 1
    press(on_disc, "b")
    on_disc.wait_until_idle("Mask of")
    assert on_disc.prompts() == ["Box from 90, 50 to 170, 130"]
    press(on_disc, "u")
    on_disc.wait_until_idle("No prompts yet")
    assert on_disc.prompts() == []


def test_a_box_can_be_dropped_and_needs_two_corners(on_disc):
    press(on_disc, "b", "ArrowLeft", "Escape")
    assert on_disc.page.locator("#marks .draft").count() == 0
    press(on_disc, "b", "b")
    assert "two different corners" in on_disc.page.locator("#status").inner_text()
    assert on_disc.prompts() == [] and not on_disc.answers()


@pytest.mark.parametrize(("undo", "redo"), [("u", "r"), ("Control+z", "Control+Shift+Z"), ("Control+z", "Control+y")])
def test_redo_brings_back_what_was_undone_and_not_after_another_prompt(on_disc, undo, redo):
    press(on_disc, "Enter", "Shift+ArrowDown", "Enter")
    on_disc.wait_until_idle("ask")
    both, mask, answers = on_disc.prompts(), on_disc.canvas("mask"), len(on_disc.answers())
    press(on_disc, undo, undo)
    on_disc.wait_until_idle("No prompts yet")
    press(on_disc, redo, redo, redo)
    on_disc.wait_until_idle("ask")
    assert on_disc.prompts() == both and np.array_equal(on_disc.canvas("mask"), mask)
    assert len(on_disc.answers()) == answers
    assert on_disc.page.get_by_role("button", name="Redo").is_disabled()
    press(on_disc, undo, "n", redo)
    on_disc.wait_until_idle("ask")
    assert on_disc.prompts() == [both[0], both[1].replace("Positive", "Negative")]


def test_undo_by_control_z_wherever_the_focus_is_but_in_a_text(on_disc):
    press(on_disc, "Enter")
    on_disc.wait_until_idle("ask")
    on_disc.page.get_by_label("Label").focus()
    on_disc.page.keyboard.type("liver")
    press(on_disc, "Control+z")
    assert len(on_disc.prompts()) == 1
    on_disc.page.get_by_role("radio", name="Contour").focus()
    press(on_disc, "Control+z")
    on_disc.wait_until_idle("No prompts yet")
    assert on_disc.prompts() == []


def test_zoom(on_disc):
    width = on_disc.page.locator("#stage").bounding_box()["width"]
    press(on_disc, "]", "]")
    assert on_disc.page.locator("#stage").bounding_box()["width"] == pytest.approx(width * 1.25**2, rel=0.01)
    press(on_disc, "[", "0")
    assert on_disc.page.locator("#stage").bounding_box()["width"] == pytest.approx(width, rel=0.01)


def test_a_prompt_is_removed_and_the_focus_goes_on(on_disc):
    press(on_disc, "Enter", "Shift+ArrowDown", "Enter")
    on_disc.wait_until_idle("ask")
    tab_to(on_disc, "#prompts .remove")
    press(on_disc, "Enter")
    assert on_disc.prompts() == ["Positive point at 120, 110"]
    assert on_disc.page.evaluate("document.activeElement.ariaLabel") == "Remove positive point at 120, 110"
    press(on_disc, "Enter")
    on_disc.wait_until_idle("No prompts yet")
    assert on_disc.page.evaluate("document.activeElement.id") == "stage"


def test_every_control_is_reached_by_tab_and_shows_its_focus(on_disc):
    press(on_disc, "Enter")
    on_disc.wait_until_idle("ask")
    on_disc.page.evaluate("document.activeElement.blur()")
    reached = set()
    for _ in range(60):
        press(on_disc, "Tab")
        name, outlined = on_disc.page.evaluate("""() => {
            const element = document.activeElement;
            const seen = element.parentElement.closest(".choice label")?.querySelector("span") ?? element;
            const { outlineStyle, outlineWidth } = getComputedStyle(seen);
            return [element.dataset.download ?? (element.id || element.name || element.ariaLabel || element.className
                || element.textContent), outlineStyle !== "none" && parseFloat(outlineWidth) >= 2];
        }""")
        if name in reached or not name:
            continue
        reached.add(name)
        assert outlined or on_disc.page.evaluate("document.activeElement === document.body"), name
    for wanted in (
        *("skip", "file", "model", "window", "center", "width", "mode", "undo", "clear", "view", "opacity"),
        *("zoom-out", "zoom-fit", "zoom-in", "stage", "label", "multimask", "API documentation", "open-help"),
        *("open-studies", "size", "object", "Hide Object 1", "Lock Object 1", "Delete Object 1", "add-object"),
        *("Remove positive point at 120, 100", "fill", "largest", "smooth", "labels", "overlay", "mask", "sc", "seg"),
    ):
        assert wanted in reached, reached
