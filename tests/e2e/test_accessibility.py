"""What assistive technology, and people with other eyes than ours, get of the page."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect

from support.sam_page import SamPage

pytestmark = [pytest.mark.server, pytest.mark.e2e]

INTERACTIVE = {
    *("application", "button", "checkbox", "combobox", "link", "listbox", "radio", "slider", "spinbutton", "textbox"),
    *("alertdialog", "dialog", "group", "image", "img", "list", "option", "switch"),
}
"""Roles whose nodes must have a name: all that is used, and what holds it."""

CONTRAST = """() => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const rgba = (color) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = color;
        canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const luminance = (color) => {
        const [red, green, blue] = rgba(color).map((value) => {
            const share = value / 255;
            return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const ground = (element) => {
        for (let node = element; node; node = node.parentElement) {
            const color = getComputedStyle(node).backgroundColor;
            if (rgba(color)[3] === 255) return color;
        }
        return "white";
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        const text = walker.currentNode.textContent.trim();
        const isOff = element.closest(":disabled, .hidden, script, noscript, option, svg");
        const isOfDisabled = element.closest("label")?.control?.matches(":disabled")
            || element.closest("fieldset:disabled");
        if (!text || isOff || isOfDisabled || !element.checkVisibility()) continue;
        const [one, other] = [luminance(getComputedStyle(element).color), luminance(ground(element))];
        found.push([text, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)]);
    }
    return found;
}"""


@pytest.fixture
def scheme(request) -> str:
    """The colours that the user's system prefers."""
    return getattr(request, "param", "dark")


@pytest.fixture
def used(chromium, server, sample, scheme) -> Iterator[SamPage]:
    """The page with all its parts in use: an image, prompts, candidates, an error."""
    opened = SamPage(chromium, server, color_scheme=scheme, reduced_motion="reduce")
    opened.page.get_by_label("Offer three candidates").check()
    opened.drop("rtdose.dcm", sample("rtdose.dcm").read_bytes())
    opened.wait_until_idle("No prompts yet")
    opened.click(5, 5)
    opened.wait_until_idle("ask")
    try:
        yield opened
    finally:
        opened.close()
    assert opened.complaints == []


def tree(sam_page: SamPage) -> list[tuple[str, str]]:
    """Role and name of each node of Chromium's accessibility tree that is not ignored."""
    session = sam_page.page.context.new_cdp_session(sam_page.page)
    nodes = session.send("Accessibility.getFullAXTree")["nodes"]
    return [
        (node["role"]["value"], node.get("name", {}).get("value", "").strip())
        for node in nodes
        if not node.get("ignored") and "role" in node
    ]


def test_everything_that_is_used_has_a_name(used):
    nodes = [(role, name) for role, name in tree(used) if role in INTERACTIVE]
    assert [role for role, name in nodes if not name] == []
    assert {role for role, _ in nodes} >= {
        *("application", "button", "checkbox", "combobox", "link", "radio", "slider", "spinbutton"),
    }
    buttons = [name for role, name in nodes if role == "button"]
    assert len(buttons) == len(set(buttons)), "two buttons are called the same"
    assert "Remove positive point at 5, 5" in buttons


def test_landmarks_and_headings(used):
    nodes = tree(used)
    roles = [role for role, _ in nodes]
    for landmark in ("banner", "main", "complementary", "navigation", "region"):
        assert roles.count(landmark) == 1, landmark
    headings = [name for role, name in nodes if role == "heading"]
    assert headings == ["SAM segmentation", "Image", "Objects", "Prompts", "By hand", "Download"]


def test_what_happens_is_said(used):
    status = used.page.get_by_role("status")
    assert status.get_attribute("aria-live") == "polite"
    assert re.fullmatch(
        r"(Mask of [\d,]+ pixels, predicted IoU \d\.\d\d|The mask is empty), [\d,]+ ms", status.inner_text()
    )
    assert used.page.get_by_role("alert").count() == 1
    items = used.page.get_by_role("list", name="Prompts").get_by_role("listitem")
    assert items.all_inner_texts() == ["Positive point at 5, 5\n✥\n×"]
    described = used.page.locator("#stage").evaluate(
        "(e) => document.getElementById(e.ariaDescribedByElements[0].id).innerText"
    )
    for key in ("Enter", "N", "B", "Esc", "U", "Ctrl", "PgUp", "Shift"):
        assert key in described


@pytest.mark.parametrize("scheme", ["dark", "light"], indirect=True)
def test_text_stands_out(used):
    """WCAG 2.2, 1.4.3: at least 4.5 to 1, also of what is chosen and of an error."""
    used.page.get_by_label("Label").fill("back\\slash")
    used.click(8, 8)
    expect(used.page.get_by_role("alert")).not_to_be_empty()
    ratios = dict(used.page.evaluate(CONTRAST))
    assert len(ratios) > 40
    assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}
    used.expect_complaints(422)


def test_nothing_moves_for_those_who_asked_for_it(used):
    used.page.locator("#viewport").evaluate("(element) => element.classList.add('busy')")
    assert used.page.evaluate("document.getAnimations().length") == 0


def test_something_moves_for_others(sam_page):
    sam_page.page.locator("#viewport").evaluate("(element) => element.classList.add('busy')")
    assert sam_page.page.evaluate("document.getAnimations().length") == 1


@pytest.mark.parametrize(("width", "height"), [(1000, 700), (1366, 768), (1920, 1080)])
def test_everything_fits(used, width, height):
    """No part is cut off or overlaps another, whatever the window's size; the image fits into its place."""
    used.page.set_viewport_size({"width": width, "height": height})
    assert used.page.evaluate("document.documentElement.scrollWidth") <= width
    assert used.page.evaluate("document.documentElement.scrollHeight") <= height
    for name in ("header", "main", "#image-panel", "#object-panel", ".tools", "#frames"):
        assert used.page.locator(name).evaluate("(element) => element.scrollWidth - element.clientWidth") <= 0, name
    viewport, stage = (used.page.locator(name).bounding_box() for name in ("#viewport", "#stage"))
    assert stage["width"] > 200 and stage["height"] > 200
    for side, size in (("x", "width"), ("y", "height")):
        assert viewport[side] - 1 <= stage[side]
        assert stage[side] + stage[size] <= viewport[side] + viewport[size] + 1
    assert used.page.get_by_text("Not a medical device: masks are proposals for a person to check.").is_visible()


def test_a_phone_shows_the_image_first_and_as_wide_as_its_screen(used):
    used.page.set_viewport_size({"width": 390, "height": 844})
    assert used.page.evaluate("document.documentElement.scrollWidth") <= 390
    stage = used.page.locator("#stage").bounding_box()
    assert max(stage["width"], stage["height"]) > 300
    assert stage["y"] >= 0 and stage["y"] + stage["height"] <= 844
    panel = used.page.locator("#image-panel").bounding_box()
    assert panel["y"] > stage["y"] + stage["height"] and panel["width"] == 390


def test_text_can_be_twice_as_large(used):
    """WCAG 2.2, 1.4.4: at twice the text size nothing runs over to the side."""
    used.page.set_viewport_size({"width": 1920, "height": 1080})
    used.page.evaluate("document.documentElement.style.fontSize = '30px'")
    assert used.page.evaluate("document.documentElement.scrollWidth") <= 1920
    for name in ("header", "#image-panel", "#object-panel", ".tools"):
        assert used.page.locator(name).evaluate("(element) => element.scrollWidth - element.clientWidth") <= 1, name


_CONTRASTS = """() => {
    const part = (level) => (level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4);
    const luminance = (colour) => {
        const [red, green, blue] = colour.match(/[\\d.]+/g).slice(0, 3).map((level) => part(level / 255));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const ground = (element) => {
        const colour = getComputedStyle(element).backgroundColor;
        return colour === "rgba(0, 0, 0, 0)" ? ground(element.parentElement) : colour;
    };
    return [...document.querySelectorAll("button, p, label, legend, h1, h2, a")]
        .filter((element) => element.checkVisibility({ opacityProperty: true }) && element.innerText?.trim())
        .filter((element) => !element.matches(":disabled, :disabled *"))
        .map((element) => {
            const [text, behind] = [luminance(getComputedStyle(element).color), luminance(ground(element))];
            const ratio = (Math.max(text, behind) + 0.05) / (Math.min(text, behind) + 0.05);
            return [element.innerText.slice(0, 40), ratio];
        });
}"""


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_text_is_told_from_what_is_behind_it(chromium, server, scheme):
    """WCAG 2.2, 1.4.3: 4.5 to 1. Before an image is opened, which is when most of the texts are seen."""
    opened = SamPage(chromium, server, color_scheme=scheme)
    try:
        expect(opened.page.get_by_role("button", name="Try: Head, CT")).to_be_visible()
        ratios = dict(opened.page.evaluate(_CONTRASTS))
    finally:
        opened.close()
    assert "Images on the server…" in ratios and any(text.startswith("Try: ") for text in ratios)
    assert {text: ratio for text, ratio in ratios.items() if ratio < 4.5} == {}
    assert opened.complaints == []
