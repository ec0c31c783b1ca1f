"""A server that asks for an API key."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from PIL import Image
from playwright.sync_api import expect

from lib.server.auth.api_keys import make_key
from lib.server.auth.key_file import KeyFile
from support.sam_page import SamPage, read_download
from support.server_process import Server, running_server

pytestmark = [pytest.mark.server, pytest.mark.e2e]


@pytest.fixture(scope="module")
def locked(tmp_path_factory, chromium) -> Iterator[tuple[Server, str]]:
    """A server that only lets one user in, and that user's key."""
    folder = tmp_path_factory.mktemp("locked")
    key, entry = make_key("radiology", ["user"], None)
    KeyFile(folder / "keys.json").add(entry)
    with running_server(folder / "server", "models", "sam_tiny", "api_keys", str(folder / "keys.json")) as server:
        yield server, key


@pytest.fixture
def locked_page(chromium, locked, disc) -> Iterator[SamPage]:
    """Its page, after an image was dropped on it."""
    opened = SamPage(chromium, locked[0])
    buffer = io.BytesIO()
    Image.fromarray(disc[0]).save(buffer, "PNG")
    opened.drop("disc.png", buffer.getvalue())
    try:
        yield opened
    finally:
        opened.close()
    assert opened.complaints == []


def test_it_asks_for_a_key_and_goes_on_with_what_was_wanted(locked_page, locked, tmp_path):
    dialog = locked_page.page.get_by_role("dialog", name="This server needs an API key")
    field = dialog.get_by_label("API key")
    expect(field).to_be_focused()
    assert field.get_attribute("type") == "password"
    field.fill("sam_wrong")
    field.press("Enter")
    expect(dialog).to_contain_text("That key was not accepted.")
    field.fill(locked[1])
    dialog.get_by_role("button", name="Continue").click()
    locked_page.wait_until_idle("No prompts yet")
    expect(dialog).to_be_hidden()
    assert locked_page.page.locator("#key").input_value() == ""

    locked_page.click(130, 90)
    locked_page.wait_until_idle("Mask of")
    with Image.open(read_download(locked_page.download("mask"), tmp_path)) as mask:
        assert mask.size == (240, 200)
    for _ in range(100):  # work is kept a moment after it changed
        places = locked_page.page.evaluate(
            "[{ ...sessionStorage }, { ...localStorage }, document.cookie, location.href]"
        )
        if "sam-work" in places[0]:
            break
        locked_page.page.wait_for_timeout(100)
    kept = places[0].pop("sam-work")
    assert list(places[0].values()) == [locked[1]] and places[1:3] == [{}, ""]
    assert locked[1] not in kept and locked[1] not in places[3]
    assert locked_page.manifest(locked_page.answers()[-1])["user"] == "key:radiology"
    locked_page.expect_complaints(401, 401)


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_without_a_key_it_says_so_and_can_be_asked_again(locked_page, locked, how):
    dialog = locked_page.page.get_by_role("dialog")
    expect(dialog).to_be_visible()
    if how == "button":
        dialog.get_by_role("button", name="Cancel").click()
    else:
        locked_page.page.keyboard.press("Escape")
    expect(locked_page.page.get_by_role("alert")).to_contain_text("asks for an API key")
    locked_page.page.get_by_role("button", name="Try again").click()
    dialog.get_by_label("API key").fill(locked[1])
    dialog.get_by_role("button", name="Continue").click()
    locked_page.wait_until_idle("No prompts yet")
    expect(locked_page.page.get_by_role("alert")).to_be_empty()
    locked_page.expect_complaints(401, 401)


def test_the_server_s_first_page_needs_no_key(chromium, locked):
    server, _ = locked
    context = chromium.new_context()
    refused: list[str] = []
    try:
        page = context.new_page()
        page.on("response", lambda answer: refused.append(answer.url) if answer.status >= 400 else None)
        page.goto(server.url)
        page.get_by_role("link", name="The page").click()
        expect(page.locator("#server")).to_contain_text("Version")
    finally:
        context.close()
    assert refused == []
