"""Drives the page at ``/sam/`` as a person does, and watches what it must never do."""

from __future__ import annotations

import base64
import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Dialog, Download, Page, Response, expect

from support.server_process import Server

_DROP = """([name, content]) => {
    const bytes = Uint8Array.from(atob(content), (character) => character.charCodeAt(0));
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], name));
    return transfer;
}"""
_PIXELS = """(canvas) => {
    const { width, height } = canvas;
    const copy = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
    copy.drawImage(canvas, 0, 0);
    const { data } = copy.getImageData(0, 0, width, height);
    let text = "";
    for (const byte of data) text += String.fromCharCode(byte);
    return { width, height, content: btoa(text) };
}"""
_TIMESTAMP = re.compile(r"get_segmented_image/([\d.]+)")
_REFUSED_REQUEST = re.compile(r"Failed to load resource: the server responded with a status of (\d+)")


class SamPage:
    """The page in a browser.

    Args:
        browser: Gets a new context, as private as a new profile.
        server: Whose page it is.
        script: Run in the page before its own.
        options: Of the browser's context.
    """

    def __init__(self, browser: Browser, server: Server, *, script: str = "", **options: Any) -> None:
        self._context = browser.new_context(viewport={"width": 1400, "height": 900}, **options)
        self._context.add_init_script(script)
        self.page: Page = self._context.new_page()
        self.server = server
        self.complaints: list[str] = []
        self._answers: list[Response] = []
        self.page.on("request", self._note_request)
        self.page.on("console", lambda message: self._note_console(message.type, message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        self.page.on("response", self._note_response)
        self.asked: list[str] = []
        self.page.on("dialog", self._agree)
        self.page.goto(server.url + "/sam/")
        expect(self.page.locator("#server")).to_contain_text("Version")

    def close(self) -> None:
        self._context.close()

    def _note_request(self, request: Any) -> None:
        if not request.url.removeprefix("blob:").startswith(self.server.url + "/"):
            self.complaints.append(f"request to another origin: {request.url}")

    def _agree(self, dialog: Dialog) -> None:
        self.asked.append(dialog.message)
        dialog.accept()

    def _note_console(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(f"console {kind}: {text}")

    def _note_response(self, response: Response) -> None:
        if response.request.method == "POST" and response.url.endswith("/segment_input_image/"):
            self._answers.append(response)

    def expect_complaints(self, *statuses: int) -> None:
        """The browser reported refused requests with these statuses, in this order, and nothing else."""
        reported = [text.removeprefix("console error: ") for text in self.complaints]
        found = [_REFUSED_REQUEST.match(text) for text in reported]
        assert all(found), self.complaints
        assert [int(match[1]) for match in found if match] == list(statuses)
        self.complaints.clear()

    # What a person does

    def drop(self, name: str, content: bytes) -> None:
        """Drop a file on the image's place."""
        transfer = self.page.evaluate_handle(_DROP, [name, base64.b64encode(content).decode()])
        for event in ("dragenter", "dragover", "drop"):
            self.page.dispatch_event("#viewport", event, {"dataTransfer": transfer})

    def drop_paths(self, *paths: Path) -> None:
        """Drop what lies on the disk, as a file manager hands it over: files or folders."""
        session = self._context.new_cdp_session(self.page)
        data = {"items": [], "files": [str(path) for path in paths], "dragOperationsMask": 1}
        for event in ("dragEnter", "dragOver", "drop"):
            session.send("Input.dispatchDragEvent", {"type": event, "x": 600, "y": 400, "data": data})

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where the middle of a pixel of the picture is on screen."""
        stage = self.page.locator("#stage").bounding_box()
        columns, rows = self.page.locator("#image").evaluate("(canvas) => [canvas.width, canvas.height]")
        assert stage is not None
        return stage["x"] + (x + 0.5) * stage["width"] / columns, stage["y"] + (y + 0.5) * stage["height"] / rows

    def click(self, x: int, y: int, button: Any = "left") -> None:
        """Click on a pixel of the picture."""
        self.page.mouse.click(*self.place(x, y), button=button)

    def drag(self, x0: int, y0: int, x1: int, y1: int) -> None:
        """Drag from one pixel to another."""
        self.page.mouse.move(*self.place(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self.place((x0 + x1) / 2, (y0 + y1) / 2))
        self.page.mouse.move(*self.place(x1, y1))
        self.page.mouse.up()

    def draw(self, *pixels: tuple[int, int]) -> None:
        """Drag along a line of pixels."""
        self.page.mouse.move(*self.place(*pixels[0]))
        self.page.mouse.down()
        for pixel in pixels[1:]:
            self.page.mouse.move(*self.place(*pixel), steps=4)
        self.page.mouse.up()

    def choose(self, tool: str) -> None:
        """Choose a tool by its name."""
        self.page.get_by_role("radio", name=tool).check()

    def download(self, kind: str) -> Download:
        """Press one of the download buttons."""
        with self.page.expect_download() as started:
            self.page.locator(f"[data-download={kind}]").click()
        return started.value

    # What there is then

    def wait_until_idle(self, status: str | re.Pattern[str]) -> str:
        """Until all is done that was asked for; answers the status line, which must contain or match ``status``."""
        line = self.page.locator("#status")
        expect(self.page.locator("#stage")).to_have_attribute("aria-busy", "false", timeout=30_000)
        expect(line).to_contain_text(status)
        return line.inner_text()

    def canvas(self, name: str) -> np.ndarray:
        """``(rows, columns, 4)`` uint8 RGBA pixels of the canvas ``image`` or ``mask``."""
        found = self.page.locator(f"canvas#{name}").evaluate(_PIXELS)
        pixels = np.frombuffer(base64.b64decode(found["content"]), np.uint8)
        return pixels.reshape(found["height"], found["width"], 4)

    def prompts(self) -> list[str]:
        """The list of prompts, as it reads."""
        return self.page.locator("#prompts li span").all_inner_texts()

    def answers(self) -> list[str]:
        """Timestamps of the results that the page got, in the order of its requests."""
        places = [answer.headers["content-location"] for answer in self._answers if answer.ok]
        return [_TIMESTAMP.findall(place)[0] for place in places]

    def requests(self) -> list[dict[str, Any]]:
        """What the server was asked for each of :meth:`answers`: the ``SAMInput`` in its manifest."""
        return [self.manifest(timestamp)["request"] for timestamp in self.answers()]

    def facts(self, timestamp: str) -> dict[str, Any]:
        """What the server knows of a result."""
        facts: dict[str, Any] = self.manifest(timestamp)["result"]
        return facts

    def manifest(self, timestamp: str) -> dict[str, Any]:
        """What made a result, as the server keeps it."""
        manifest: dict[str, Any] = json.loads(
            (self.server.results / f"{Decimal(timestamp):.6f}" / "manifest.json").read_text()
        )
        return manifest


def read_download(download: Download, folder: Path) -> Path:
    """Keep a download; answers where."""
    path = folder / download.suggested_filename
    download.save_as(path)
    return path
