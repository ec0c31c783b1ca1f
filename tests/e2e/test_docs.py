"""The API documentation leads to the page, and the page to the documentation."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.server, pytest.mark.e2e]


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_way_there_and_back(chromium, server, path):
    context = chromium.new_context()
    try:
        documentation = context.new_page()
        documentation.goto(server.url + path)
        with documentation.expect_popup() as opened:
            documentation.get_by_role("link", name="Segment an image in the browser").click()
        page = opened.value
        expect(page).to_have_url(server.url + "/sam/")
        expect(page.locator("#server")).to_contain_text("Version")
        page.get_by_role("link", name="API documentation").click()
        expect(page.get_by_role("heading", name="Segmentation")).to_be_visible()
    finally:
        context.close()
