"""What a person does in napari with nnInteractive's plugin, by the mouse and the keyboard.

It is run by the Python of napari's environment, with nothing of this project: ``hands.py URL KEY FOLDER``. In the
folder is ``phantom.nii.gz``. It leaves there what was seen: ``seen.npz`` with the masks of the layers, whose axes are
the image layer's, ``told.json`` with what the plugin said, and pictures.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QTabWidget, QWidget

Place = Sequence[float]
WAIT_S = 120
INTERACT, SETTINGS = range(2)
POINT, BOX, SCRIBBLE, LASSO = range(4)
BIG, SMALL = (20, 50, 40), (18, 30, 88)
"""The middles of the two balls, in the phantom's slices, rows and columns."""


class Napari:
    """A window of napari with an image and the plugin's panel.

    Args:
        image: A file that the plugin's own reader opens.
        folder: Gets the pictures.

    Attributes:
        told: What the plugin said, by when.
    """

    def __init__(self, image: Path, folder: Path) -> None:
        self._folder = folder
        self.told: dict[str, str] = {}
        self.viewer = napari.Viewer()
        self._window = self.viewer.window._qt_window
        self._window.resize(1500, 950)
        (self.image,) = self.viewer.open(image, plugin="napari-nifti")
        _, self.panel = self.viewer.window.add_plugin_dock_widget("napari-nninteractive", "nnInteractive")
        self._tabs = self.panel.findChild(QTabWidget)
        self.show(INTERACT)

    @property
    def mask(self) -> np.ndarray:
        """A copy of the mask being made."""
        return np.array(self.viewer.layers[self.panel.label_layer_name].data)

    @property
    def finished(self) -> list[np.ndarray]:
        """The masks of the objects that are done, in their order."""
        return [np.array(layer.data) for layer in self.viewer.layers if layer.name.startswith("object ")]

    def picture(self, name: str) -> None:
        """Keep the window as it is to be seen."""
        QTest.qWait(300)
        self.viewer.screenshot(str(self._folder / f"{name}.png"), canvas_only=False, flash=False)

    def show(self, tab: int) -> None:
        """Choose a tab of the panel."""
        self._tabs.setCurrentIndex(tab)
        QTest.qWait(100)

    def press(self, button: QWidget) -> None:
        """Click on a button of the panel or the window."""
        assert button.isVisible() and button.isEnabled(), f"{button.text()} cannot be pressed"
        QTest.mouseClick(button, Qt.MouseButton.LeftButton)
        QTest.qWait(100)

    def enter(self, field: QWidget, text: str) -> None:
        """Type into an emptied field, and end with Enter."""
        field.clear()
        QTest.keyClicks(field, text)
        QTest.keyClick(field, Qt.Key.Key_Return)

    def until(self, holds: Callable[[], bool], what: str) -> None:
        """Let napari work until something holds."""
        end = time.monotonic() + WAIT_S
        while not holds():
            assert time.monotonic() < end, f"after {WAIT_S} s not yet: {what}"
            QTest.qWait(50)

    def initialize(self) -> None:
        """Send the image, until the plugin takes prompts."""
        self.press(self.panel.init_button)
        self.until(lambda: self.panel._session_locked and self.panel._upload_dialog is None, "initialized")

    def begin_with(self, layer: str) -> None:
        """Begin the object with the mask in a layer, at *Initialize with Segmentation*."""
        button = self.panel.load_mask_btn
        button.parentWidget().setChecked(True)  # unfolds it
        self.panel.label_for_init.setCurrentText(layer)
        self.press(button)

    # Drawing

    def tool(self, index: int, *, positive: bool = True) -> None:
        """Choose a kind of prompt, and whether it is on the object or beside it."""
        self.press(self.panel.interaction_button.buttons[index])
        self.press(self.panel.prompt_button.buttons[0 if positive else 1])

    def turn(self, axis: int) -> None:
        """Show slices along an axis of the image layer, as the button under the layer list does step by step."""
        buttons = self.viewer.window._qt_viewer.viewerButtons
        while self.viewer.dims.not_displayed != (axis,):
            self.press(buttons.rollDimsButton)
        self.press(buttons.resetViewButton)

    def draw(self, *places: Place) -> None:
        """Press the left button at the first place, go through the others, and release it at the last.

        Args:
            places: Indices into the image layer, all on one slice of the axis that is not shown.
        """
        (axis,) = self.viewer.dims.not_displayed
        self.viewer.dims.set_point(axis, self.image.data_to_world(places[0])[axis])
        QTest.qWait(100)
        native = self.viewer.window._qt_viewer.canvas.native
        first, *others = [self._on_screen(place) for place in places]
        last = first
        left, no_key = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
        QTest.mouseMove(native, first)
        QTest.mousePress(native, left, no_key, first)
        for last in others:
            QTest.mouseMove(native, last)
            QTest.qWait(20)
        QTest.mouseRelease(native, left, no_key, last)
        QTest.qWait(300)

    def _on_screen(self, place: Place) -> QPoint:
        """Where in the canvas a place is to be seen."""
        canvas = self.viewer.window._qt_viewer.canvas
        shown = list(self.viewer.dims.displayed)
        corner, right, down = (
            np.array(canvas._map_canvas2world(at, canvas.view))[shown] for at in ((0, 0), (100, 0), (0, 100))
        )
        world = np.array(self.image.data_to_world(place))[shown]
        x, y = 100 * np.linalg.solve(np.stack([right - corner, down - corner], axis=1), world - corner)
        return QPoint(round(x), round(y))


def moved(place: Place, *by: float) -> Place:
    """A place beside another."""
    return [one + step for one, step in zip(place, by, strict=True)]


def line(start: Place, end: Place) -> list[Place]:
    """Places on the way from one to another."""
    return list(np.linspace(start, end, 15))


def ring(centre: Place, axis: int, radii: tuple[float, float]) -> list[Place]:
    """Places on an ellipse (its two radii in voxels) around a place, on its slice of an axis."""
    one, two = (other for other in range(3) if other != axis)
    places = np.tile(np.asarray(centre, float), (40, 1))
    angles = np.linspace(0, 2 * np.pi, len(places), endpoint=False)
    places[:, one] += radii[0] * np.sin(angles)
    places[:, two] += radii[1] * np.cos(angles)
    return list(places)


def connect(hands: Napari, url: str, key: str) -> None:
    """With a wrong key, to a model that is not there, then as it should be; and send the image."""
    panel = hands.panel
    hands.show(SETTINGS)
    for name, address, given in (
        ("wrong key", url, "wrong"),
        ("no such model", f"{url}/sam_none", key),
        ("connected", url, key),
    ):
        hands.enter(panel.server_url_edit, address)
        hands.enter(panel.api_key_edit, given)
        hands.press(panel.connect_btn)
        hands.until(panel.connect_btn.isEnabled, "an answer to Connect")
        hands.told[name] = panel.remote_status_label.text()
        hands.picture(name)
    hands.show(INTERACT)
    hands.initialize()
    hands.told["licence"] = panel.model_license_label.text()


def mark(hands: Napari) -> Iterator[tuple[str, np.ndarray]]:
    """Two objects by each kind of prompt in each plane; the mask after each step."""
    panel = hands.panel
    hands.turn(0)
    hands.tool(POINT)
    hands.draw(BIG)
    yield "point", hands.mask
    hands.press(panel.undo_button)
    yield "point taken back", hands.mask

    hands.tool(SCRIBBLE)
    hands.draw(*line(moved(BIG, 0, -5, -10), moved(BIG, 0, 5, 10)))
    yield "scribble", hands.mask
    hands.press(panel.reset_interaction_button)
    yield "reset", hands.mask

    hands.turn(1)
    hands.tool(BOX)
    hands.draw(*line(moved(BIG, -11, 0, -22), moved(BIG, 11, 0, 22)))
    yield "box", hands.mask
    hands.press(panel.reset_interaction_button)

    hands.turn(2)
    hands.tool(LASSO)
    hands.draw(*ring(BIG, 2, (11, 22)))
    yield "lasso", hands.mask

    hands.turn(0)
    hands.tool(POINT)
    hands.draw(SMALL)
    yield "both", hands.mask
    hands.tool(POINT, positive=False)
    hands.draw(moved(SMALL, 0, 2, 2))
    yield "negative point", hands.mask
    hands.press(panel.undo_button)
    yield "negative point taken back", hands.mask
    hands.tool(SCRIBBLE, positive=False)
    hands.draw(*line(moved(SMALL, 0, -3, -4), moved(SMALL, 0, 3, 4)))
    yield "negative scribble", hands.mask

    hands.press(panel.reset_button)
    yield "next object", hands.mask
    hands.tool(BOX)
    hands.draw(*line(moved(SMALL, 0, -10, -10), moved(SMALL, 0, 10, 10)))
    yield "second object", hands.mask


def go_on_after_the_session_is_lost(hands: Napari) -> Iterator[tuple[str, np.ndarray]]:
    """The server forgets the session, as in a restart; the mask is kept by another name, half wiped out, and mended."""
    panel = hands.panel
    hands.tool(POINT)
    panel.session._http.post("/release")
    hands.draw(SMALL)
    hands.told["session lost"] = panel.remote_status_label.text()
    yield "session lost", hands.mask
    kept = hands.viewer.layers[panel.label_layer_name]
    kept.name = "kept"
    kept.data[: SMALL[0]] = 0
    hands.initialize()
    yield "connected again", hands.mask
    hands.begin_with("kept")
    yield "begun with a mask", hands.mask
    hands.tool(POINT)
    hands.draw(moved(SMALL, -2, 0, 0))
    yield "mended", hands.mask


def main(url: str, key: str, folder: Path) -> None:
    """Connect, mark two objects by each kind of prompt, take back, and go on after the session was lost."""
    hands = Napari(folder / "phantom.nii.gz", folder)
    seen = {"image": hands.image.data}
    connect(hands, url, key)
    for story in (mark, go_on_after_the_session_is_lost):
        for name, mask in story(hands):
            hands.picture(name)
            seen[name] = mask
    seen["objects"] = np.stack(hands.finished)
    np.savez_compressed(folder / "seen.npz", **seen)
    (folder / "told.json").write_text(json.dumps(hands.told))
    hands.viewer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
