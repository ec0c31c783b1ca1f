"""Drives OHIF with MONAI Label's plugin as a person does, as both come with MONAI Label."""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Request, Response, expect

_START_MS = 120_000
_TO_BASE64 = """
    const array = volume.voxelManager.getCompleteScalarDataArray();
    const bytes = new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
    let text = "";
    for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
    return { shape: [...volume.dimensions].reverse(), dtype: array.constructor.name, content: btoa(text) };
"""
_IMAGE = "const volume = cornerstone.cache.getVolumes().find((one) => one.loadStatus?.loaded);"
_LABELS = "const volume = services.segmentationService.getLabelmapVolume('1');"
_DTYPES = {
    "Uint8Array": np.uint8, "Int8Array": np.int8, "Uint16Array": np.uint16, "Int16Array": np.int16,
    "Float32Array": np.float32,
}  # fmt: skip
_NATIVE_VIEWPORT = """
    const axis = volume.direction.slice(6, 9);
    const viewport = cornerstone.getRenderingEngines()[0].getViewports().find((one) => {
        const normal = one.getCamera().viewPlaneNormal;
        return Math.abs(axis.reduce((sum, value, n) => sum + value * normal[n], 0)) > 0.99;
    });
"""


class OhifPage:
    """OHIF in a browser.

    Args:
        browser: Gets a new context, as private as a new profile.
        url: Of the server that OHIF is loaded from.
        login: Name and key that the person gives when the browser asks.
    """

    def __init__(self, browser: Browser, url: str, login: tuple[str, str] | None = None) -> None:
        credentials: Any = {"username": login[0], "password": login[1]} if login else None
        self._context = browser.new_context(viewport={"width": 1500, "height": 900}, http_credentials=credentials)
        self.page = self._context.new_page()
        self.page.set_default_timeout(60_000)
        self._url = url
        self._notice_read = False
        self.failures: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("response", self._note_response)
        self.page.on("requestfailed", self._note_unanswered)
        self.page.on("pageerror", lambda error: self.failures.append(f"exception: {error}"))

    def close(self) -> None:
        self._context.close()

    def _note_unanswered(self, request: Request) -> None:
        if request.failure != "csp":  # what the page's policy forbids does not leave the browser
            self._note_host(request.url)

    def _note_host(self, url: str) -> None:
        self.hosts.add(re.match(r"\w+:(//[^/]*)?", url)[0])  # type: ignore[index]

    def _note_response(self, response: Response) -> None:
        self._note_host(response.url)
        if response.status >= 400 and "/train/" not in response.url:  # whether a training runs: 404 is no
            self.failures.append(f"{response.status} {response.url}")

    # What a person does

    def open_list(self) -> None:
        """The list of studies."""
        self.page.goto(f"{self._url}/ohif/")
        expect(self.page.get_by_text("Study List")).to_be_visible(timeout=_START_MS)
        if not self._notice_read:
            self.page.locator('[data-cy="confirm-and-hide-button"]').click()
            self._notice_read = True

    def open_study(self, patient: str) -> None:
        """From the list, in MONAI Label's mode, until all slices are there."""
        self.page.get_by_text(patient).first.click()
        self.page.get_by_role("button", name="MONAI Label").click()
        self.page.wait_for_selector("#monailabelServerURL", timeout=_START_MS)
        self.page.wait_for_function(
            "() => window.cornerstone?.cache.getVolumes().some((one) => one.loadStatus?.loaded)", timeout=_START_MS
        )

    def connect(self) -> None:
        """The button beside the server's address; then the panel for points."""
        self.page.locator(".settingsTable button.actionButton").click()
        self.page.wait_for_function(
            "() => { try { return !!services.segmentationService.getLabelmapVolume('1'); } catch { return false; } }"
        )
        self.page.get_by_text("Point Prompts", exact=True).click()

    def choose_label(self, name: str) -> None:
        """In the list of organs; ``background`` for negative points. The points shown are then that label's."""
        row = self._panel.locator("tr.clickable-row").filter(has_text=re.compile(f"^\\s*{name}$"))
        row.click()
        expect(row).to_have_attribute("style", re.compile("dark(blue|red)"))
        self.page.wait_for_timeout(500)  # until they are drawn, which nothing tells

    def choose_model(self, name: str) -> None:
        """In the panel's list."""
        self._panel.locator("select.selectBox").select_option(name)

    def go_to(self, place: tuple[float, float, float]) -> None:
        """Turn the wheel over the viewport that shows slices as they were acquired, until this place is on its slice.

        Args:
            place: LPS, mm.
        """
        self._aim(place)
        turn = 100
        for _ in range(200):
            away = self._slices_away(place)
            if away < 0.3:
                return
            self.page.mouse.wheel(0, turn)
            self.page.wait_for_timeout(80)
            if self._slices_away(place) > away:
                turn = -turn
        raise AssertionError(f"the wheel does not reach {place}")

    def click(self, place: tuple[float, float, float]) -> None:
        """Set a point at a place on the slice in view (LPS, mm)."""
        circles = self.page.locator(".viewport-element svg circle")
        before = circles.count()
        for _ in range(3):  # the first click into a view may only make it the active one
            self._aim(place)
            self.page.mouse.click(*self._on_screen(place))
            with suppress(AssertionError):
                expect(circles).to_have_count(before + 1)
                return
        raise AssertionError(f"no point was set at {place}")

    def run(self) -> tuple[dict[str, Any], Response]:
        """Press *Run*; what was asked, and the answer, whose mask is then in the viewer.

        What was asked with a mask the browser does not tell: then it is empty.
        """
        before = self._fingerprint()
        with self.page.expect_response(lambda response: "/infer/" in response.url) as answered:
            self._panel.locator('button.actionButton[title^="Run"]').click()
        answer = answered.value
        asked = re.search(r'name="params"\r\n\r\n(.*?)\r\n--', answer.request.post_data or "", re.DOTALL)
        answer.finished()
        for _ in range(50):
            self.page.wait_for_timeout(100)
            if self._fingerprint() != before:
                break
        return json.loads(asked[1]) if asked else {}, answer

    def press(self, name: str) -> None:
        """One of the buttons that this app adds to the panel."""
        self.page.locator("#samPanel").get_by_role("button", name=name, exact=True).click()

    def expect_message(self, text: str) -> None:
        """What OHIF shows for some seconds."""
        expect(self.page.get_by_text(text).first).to_be_visible()

    def drag(self, start: tuple[float, float, float], end: tuple[float, float, float]) -> None:
        """From one place on the slice in view to another (LPS, mm)."""
        self._aim(start)
        self.page.mouse.down()
        self.page.mouse.move(*self._on_screen(end), steps=6)
        self.page.mouse.up()

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=path)

    # What there is then

    @property
    def _panel(self) -> Any:
        return self.page.locator(".tab", has=self.page.get_by_text("Point Prompts", exact=True))

    def cookies(self) -> list[Any]:
        """What the browser keeps of the server."""
        return list(self._context.cookies())

    def server(self) -> str:
        """The address in the panel."""
        return self.page.input_value("#monailabelServerURL")

    def models(self) -> list[str]:
        """What the panel for points offers."""
        return [text.strip() for text in self._panel.locator("select.selectBox option").all_inner_texts()]

    def organs(self) -> list[str]:
        """What it offers as labels."""
        return [text.strip() for text in self._panel.locator("tr.clickable-row").all_inner_texts()]

    def image(self) -> np.ndarray:
        """``(K, rows, columns)``: the values as OHIF has them, in its order of voxels."""
        return self._array(f"() => {{ {_IMAGE} {_TO_BASE64} }}")

    def labels(self) -> np.ndarray:
        """``(K, rows, columns)``: the segments that the viewer shows."""
        return self._array(f"() => {{ {_LABELS} {_TO_BASE64} }}")

    def voxel(self, place: tuple[float, float, float]) -> tuple[int, int, int]:
        """``(i, j, k)`` of a place (LPS, mm) in OHIF's order."""
        found = self.page.evaluate(
            f"(place) => {{ {_IMAGE} return [...volume.imageData.worldToIndex(place)]; }}", place
        )
        i, j, k = (round(value) for value in found)
        return i, j, k

    def _fingerprint(self) -> int:
        """Changes with the labels."""
        script = f"""() => {{ {_LABELS}
            const array = volume.voxelManager.getCompleteScalarDataArray();
            return array.reduce((sum, value, n) => (sum * 31 + value * (n % 8191)) % 4294967291, 0);
        }}"""
        return int(self.page.evaluate(script))

    def _array(self, script: str) -> np.ndarray:
        found = self.page.evaluate(script)
        return np.frombuffer(base64.b64decode(found["content"]), _DTYPES[found["dtype"]]).reshape(found["shape"])

    def _aim(self, place: tuple[float, float, float]) -> None:
        self.page.mouse.move(*self._on_screen(place))

    def _on_screen(self, place: tuple[float, float, float]) -> tuple[float, float]:
        script = f"""(place) => {{ {_IMAGE} {_NATIVE_VIEWPORT}
            const box = viewport.element.getBoundingClientRect();
            const [x, y] = viewport.worldToCanvas(place);
            return [box.x + x, box.y + y];
        }}"""
        x, y = self.page.evaluate(script, place)
        return x, y

    def _slices_away(self, place: tuple[float, float, float]) -> float:
        script = f"""(place) => {{ {_IMAGE} {_NATIVE_VIEWPORT}
            const shown = volume.imageData.worldToIndex(viewport.getCamera().focalPoint);
            return Math.abs(Math.round(volume.imageData.worldToIndex(place)[2]) - shown[2]);
        }}"""
        return float(self.page.evaluate(script, place))
