"""The server's first page leads everywhere, and the API documentation segments an image."""

from __future__ import annotations

import io
import json

import pytest
from PIL import Image
from playwright.sync_api import expect

pytestmark = [pytest.mark.server, pytest.mark.e2e]

WAYS = {"The page": "/sam/", "OHIF": "/ohif/", "API documentation": "/docs", "State": "/health_check/"}


def test_the_first_page_leads_everywhere_without_scripts(chromium, server):
    context = chromium.new_context(java_script_enabled=False)
    try:
        page = context.new_page()
        for name, path in WAYS.items():
            page.goto(server.url)
            expect(page.get_by_role("heading", name="SAM segmentation")).to_be_visible()
            with page.expect_response(server.url + path) as answered:
                page.get_by_role("link", name=name).click()
            assert answered.value.status == 200, name
    finally:
        context.close()


@pytest.mark.parametrize("scheme", ["dark", "light"])
@pytest.mark.parametrize("width", [320, 1280])
def test_the_first_page_fits_its_screen_and_follows_the_system_s_colours(chromium, server, scheme, width):
    context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    complaints: list[str] = []
    try:
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("requestfailed", lambda request: complaints.append(request.url))
        page.goto(server.url)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        boxes = [page.get_by_role("listitem").nth(n).bounding_box() for n in range(len(WAYS))]
        assert all(box and box["x"] >= 0 and box["x"] + box["width"] <= width for box in boxes)
        columns = len({box["x"] for box in boxes if box})
        assert columns == (1 if width == 320 else 2)
        ground, text = (
            [int(part) for part in page.evaluate(f"getComputedStyle(document.body).{key}")[4:-1].split(",")]
            for key in ("backgroundColor", "color")
        )
        assert (sum(ground) < sum(text)) == (scheme == "dark")
    finally:
        context.close()
    assert complaints == []


def test_the_way_to_the_page_and_back(chromium, server):
    context = chromium.new_context()
    try:
        documentation = context.new_page()
        documentation.goto(server.url + "/docs")
        assert documentation.title() == "SAM segmentation API"
        with documentation.expect_popup() as opened:
            documentation.get_by_role("link", name="Segment an image in the browser").click()
        page = opened.value
        expect(page).to_have_url(server.url + "/sam/")
        expect(page.locator("#server")).to_contain_text("Version")
        page.get_by_role("link", name="API documentation").click()
        expect(page.get_by_role("heading", name="Segmentation", level=3)).to_be_visible()
    finally:
        context.close()


def test_the_documentation_segments_an_image_with_its_own_example(chromium, server, disc):
    """`sam_input` is text to edit, with an example: executed as it stands, it is understood."""
    image = io.BytesIO()
    Image.fromarray(disc[0]).save(image, "PNG")
    context = chromium.new_context()
    try:
        page = context.new_page()
        page.goto(server.url + "/docs")
        page.get_by_text("Segment an image", exact=True).click()
        page.get_by_role("button", name="Try it out").click()
        rows = page.locator("tr", has=page.get_by_text("sam_input", exact=True))
        text = rows.locator("textarea")
        assert json.loads(text.input_value())["positive_points"] == [{"x": 100, "y": 100}]
        assert rows.locator("input[type=file]").count() == 0
        file = page.locator("tr", has=page.get_by_text("file", exact=True)).locator("input[type=file]")
        file.set_input_files({"name": "disc.png", "mimeType": "image/png", "buffer": image.getvalue()})
        with page.expect_response(server.url + "/segment_input_image/") as answered:
            page.get_by_role("button", name="Execute").click()
        assert answered.value.status == 200, answered.value.text()
        facts = json.loads(answered.value.headers["sam-result"])
        assert len(facts["areas"]) == 1
    finally:
        context.close()
