"""From modality values to the 8-bit picture that a SAM model sees, and which window made it.

The rule, first that applies: the window of the request; a preset that the request names; the source's own first
VOI window; 8-bit data as they are; for CT, known or recognised by its values, the soft-tissue preset; else the
0.5th and 99.5th percentile of the whole image, padding left out, so that all slices of a volume look alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from monai.transforms import Transform

from lib.imaging.image import MedicalImage, Window
from lib.imaging.image_cache import once_per_image
from lib.imaging.views import grey_to_rgb
from lib.sam.clock import current_clock
from lib.sam.prompts import PromptError

AUTO = "auto"

PRESETS: dict[str, Window] = {
    "abdomen": Window(40, 400),
    "lung": Window(-600, 1500),
    "mediastinum": Window(50, 350),
    "bone": Window(400, 1800),
    "brain": Window(40, 80),
    "liver": Window(60, 160),
}
"""CT windows in Hounsfield units, as they are in common radiological use."""

_CT_DEFAULT = "abdomen"
_PERCENTILES = (0.5, 99.5)
_PERCENTILE_SAMPLES = 1_000_000


@dataclass(frozen=True)
class AppliedWindow:
    """The window that was used and where it came from.

    Args:
        center, width: In modality units; None for data shown as they are.
        source: ``request``, ``preset <name>``, ``image``, ``8-bit``, ``CT preset <name>`` or ``percentiles``.
    """

    center: float | None
    width: float | None
    source: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def choose_window(
    image: MedicalImage, requested: Window | None = None, preset: str = AUTO
) -> tuple[Window | None, AppliedWindow]:
    """The window to use by this module's rule; None means 8-bit values as they are.

    Raises:
        PromptError: If there is no such preset; the message lists those there are.
    """
    if preset != AUTO and preset not in PRESETS:
        raise PromptError(f"there is no window {preset!r}; it can be {AUTO}, {', '.join(PRESETS)}")

    def used(window: Window, source: str) -> tuple[Window, AppliedWindow]:
        return window, AppliedWindow(window.center, window.width, source)

    as_they_are = (None, AppliedWindow(None, None, "8-bit"))
    if image.is_colour:
        return as_they_are
    if requested is not None:
        return used(requested, "request")
    if preset != AUTO:
        return used(PRESETS[preset], f"preset {preset}")
    if image.windows:
        return used(image.windows[0], "image")
    if image.frames.dtype == np.uint8:
        return as_they_are
    return used(*_window_of_values(image))


@once_per_image
def _window_of_values(image: MedicalImage) -> tuple[Window, str]:
    """The window, and its source, of an image that names none."""
    if image.modality == "CT" or (image.modality is None and _looks_like_ct(image)):
        return PRESETS[_CT_DEFAULT], f"CT preset {_CT_DEFAULT}"
    return _percentile_window(image), "percentiles"


def _samples(image: MedicalImage) -> np.ndarray:
    """At most about a million of the image's values, evenly taken, without padding."""
    values = image.frames.reshape(-1)
    values = values[:: max(1, values.size // _PERCENTILE_SAMPLES)]
    if image.padding is not None:
        low, high = image.padding
        kept = values[(values < low) | (values > high)]
        values = kept if kept.size else values
    return values


def _looks_like_ct(image: MedicalImage) -> bool:
    """Whether a volume without a modality has Hounsfield units: air near -1000, and tissue above 0."""
    if not image.is_geometric:
        return False
    values = _samples(image)
    low, high = np.percentile(values, (1, 99.9))
    return bool(-3100 <= low <= -800 and 50 <= high <= 4000)


def _percentile_window(image: MedicalImage) -> Window:
    low, high = (float(value) for value in np.percentile(_samples(image), _PERCENTILES))
    if high <= low:
        low, high = float(image.frames.min()), float(image.frames.max())
    width = max(high - low, float(np.finfo(np.float32).tiny))
    return Window(center=low + width / 2, width=width, function="LINEAR_EXACT")


def apply_window(values: np.ndarray, window: Window) -> np.ndarray:
    """Modality values to 0..255 by the VOI function of DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Args:
        values: Any shape, integer or float.
        window: The window.

    Returns:
        uint8 of the same shape.
    """
    x = values.astype(np.float32)
    center, width = np.float32(window.center), np.float32(window.width)
    if window.function == "LINEAR_EXACT":
        y = (x - center) / width + np.float32(0.5)
    elif window.function == "SIGMOID":
        y = 1 / (1 + np.exp(np.clip(-4 * (x - center) / width, -80, 80)))
    elif window.width == 1:
        y = (x > center - np.float32(0.5)).astype(np.float32)
    else:
        y = (x - (center - np.float32(0.5))) / (width - 1) + np.float32(0.5)
    return (np.clip(y, 0, 1) * 255 + np.float32(0.5)).astype(np.uint8)


def select_frame(image: MedicalImage, k: int) -> np.ndarray:
    """``(rows, columns)`` modality values or ``(rows, columns, 3)`` uint8 of frame ``k``.

    Raises:
        PromptError: If k is not a frame of the image.
    """
    if not 0 <= k < image.frame_count:
        raise PromptError(f"there is no frame {k}; the image has frames 0 to {image.frame_count - 1}")
    frame: np.ndarray = image.frames[k]
    return frame


def windowed_frame(image: MedicalImage, k: int, window: Window | None) -> np.ndarray:
    """``(rows, columns, 3)`` uint8 of frame ``k``, as a SAM model sees it.

    Padding is black, also where the window or MONOCHROME1 would show it bright.

    Args:
        image: Has the frame.
        k: Its number.
        window: See :func:`choose_window`.

    Raises:
        PromptError: If k is not a frame of the image.
    """
    values = frame = select_frame(image, k)
    if window is not None:
        frame = apply_window(frame, window)
    if image.inverted:
        frame = 255 - frame
    if image.padding is not None:
        low, high = image.padding
        frame = np.where((values >= low) & (values <= high), np.uint8(0), frame)
    if image.is_colour:
        return np.ascontiguousarray(frame)
    return grey_to_rgb(frame)


def requested_window(image: MedicalImage, asked: Any) -> tuple[Window | None, AppliedWindow]:
    """The window to use for what a client asked for.

    Args:
        image: To be windowed.
        asked: A :class:`Window` or a preset's name. Anything else is no choice: MONAI Label hands on the list of
            choices when the client made none.

    Raises:
        PromptError: As :func:`choose_window`.
    """
    requested = asked if isinstance(asked, Window) else None
    preset = asked if isinstance(asked, str) and asked else AUTO
    return choose_window(image, requested, preset)


class WindowFramed(Transform):
    """Take ``image`` and ``slice``, give ``frame`` as ``(H, W, 3)`` uint8, and ``window`` as it was applied.

    ``frame_window`` is the same as :func:`windowed_frame` takes it, for other frames of the image.

    Args:
        window_key: Holds what the request asked for, see :func:`requested_window`.
    """

    def __init__(self, window_key: str = "window") -> None:
        self.window_key = window_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Select and window.

        Raises:
            PromptError: For a frame or a preset that there is not.
        """
        result = dict(data)
        image: MedicalImage = result["image"]
        with current_clock().stage("window"):
            window, applied = requested_window(image, result.get(self.window_key))
            result["frame"] = windowed_frame(image, result["slice"], window)
            result["frame_window"] = window
        result[self.window_key] = applied
        return result
