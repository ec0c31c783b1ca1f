"""From modality values to the 8-bit picture that a SAM model sees, and which window made it.

The rule, first that applies: the window of the request; a preset that the request names, if the values can be
Hounsfield units; the VOI transform that the source states for this frame, or its next one; 8-bit data as they are; for
Hounsfield units, stated or recognised by their values, the soft-tissue preset; else the 0.5th and 99.5th percentile of
the whole image, padding left out, so that all slices of a volume look alike; at last those of this frame.

What nobody asked for holds only if something is seen in it: a window that shows a frame all black, white or grey,
though there is something in it (:mod:`lib.transforms.visibility`), gives way to the next, and the source that is
answered says so. Files state windows that fit nothing, and few of the values that 8 or 16 bits allow may be in use.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from monai.transforms import Transform

from lib.base.clock import current_clock
from lib.imaging.decoding.piecewise import piecewise
from lib.imaging.image import Display, MedicalImage, VoiTable, VoiTransform, Window
from lib.imaging.image_cache import cached_per_image
from lib.imaging.views import grey_to_rgb
from lib.sam.prompts import PromptError
from lib.transforms.request import AUTO, REQUEST, SegmentRequest
from lib.transforms.visibility import hides_content, is_uninformative, subsample

_LEAST_HOUNSFIELD = -3100
"""Below what scanners fill the corners with."""

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
_LAST = "frame percentiles"
_FAR = 4
"""How many times their spread a value must be away from all others to be none of them."""
_SMALL_INTEGERS = (np.int8, np.uint8, np.int16, np.uint16)
"""What float32 holds exactly, differences included."""


@dataclass(frozen=True)
class AppliedWindow:
    """The window that was used and where it came from.

    Args:
        center, width: In modality units; None for data shown as they are or by a table.
        source: ``request``, ``preset <name>``, ``image``, ``image LUT``, ``8-bit``, ``CT preset <name>``,
            ``percentiles`` or ``frame percentiles``; in brackets after it what would have come first, and why it did
            not: ``percentiles (image: shows nothing)``.
    """

    center: float | None
    width: float | None
    source: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def choose_window(
    image: MedicalImage, k: int, requested: Window | None = None, preset: str = AUTO
) -> tuple[VoiTransform | None, AppliedWindow]:
    """How to show frame ``k`` by this module's rule; None means 8-bit values as they are.

    Raises:
        PromptError: If there is no such preset or frame; the message lists those there are.
    """
    if preset != AUTO and preset not in PRESETS:
        raise PromptError(f"there is no window {preset!r}; it can be {AUTO}, {', '.join(PRESETS)}")
    frame = select_frame(image, k)
    if requested is not None and not image.is_colour:
        return _meant(requested, image), AppliedWindow(requested.center, requested.width, "request")
    passed_over: list[str] = []
    if preset != AUTO and not image.is_colour and not _can_be_hounsfield(image):
        passed_over.append(f"preset {preset}: no Hounsfield units")
        preset = AUTO
    if image.display(k).is_invalid:
        passed_over.append("image: not valid")
    transform: VoiTransform | None = None
    source = ""
    for transform, source in _candidates(image, k, preset):
        if source == _LAST or not _hides(image, k, frame, transform):
            break
        passed_over.append(f"{source}: shows nothing")
    reasons = f" ({'; '.join(passed_over)})" if passed_over else ""
    if isinstance(transform, Window):
        return transform, AppliedWindow(transform.center, transform.width, source + reasons)
    return transform, AppliedWindow(None, None, source + reasons)


def _candidates(image: MedicalImage, k: int, preset: str) -> Iterator[tuple[VoiTransform | None, str]]:
    """What nobody gave numbers for, with its source, in the order of the rule."""
    if not image.is_colour:
        if preset != AUTO:
            yield PRESETS[preset], f"preset {preset}"
        for transform in image.display(k).transforms:
            yield transform, "image LUT" if isinstance(transform, VoiTable) else "image"
    if image.frames.dtype == np.uint8:
        yield None, "8-bit"
    elif not image.is_colour and _is_hounsfield(image):
        yield PRESETS[_CT_DEFAULT], f"CT preset {_CT_DEFAULT}"
    yield _percentile_window(image), "percentiles"
    frame = image.frames[k]
    yield _window_between(_without_outlier(frame[~_padded(frame, image.display(k))])), _LAST


def _meant(requested: Window, image: MedicalImage) -> Window:
    """The window as asked for; LINEAR is for whole numbers, so that other values get the exact function."""
    if requested.function == "LINEAR" and image.frames.dtype.kind == "f":
        return replace(requested, function="LINEAR_EXACT")
    return requested


def _hides(image: MedicalImage, k: int, frame: np.ndarray, transform: VoiTransform | None) -> bool:
    """Whether nothing is seen of a frame that has something to show.

    A slice of air in a CT is black in a window that suits the others; calibrated values need no other for it.
    """

    def shown(values: np.ndarray) -> np.ndarray:
        return values if transform is None else apply_window(values, transform)

    def of_interest(values: np.ndarray) -> np.ndarray:
        return ~_padded(values, image.display(k))

    some = subsample(frame)
    if not is_uninformative(shown(some)[of_interest(some)]):
        return False
    if not hides_content(frame, shown(frame), of_interest(frame)):
        return False
    return not (_is_hounsfield(image) and not is_uninformative(shown(_samples(image))))


def _padded(values: np.ndarray, display: Display) -> np.ndarray:
    """Which values are padding, as bool of their shape; none of them if all would be, as then the range is wrong."""
    if display.padding is None:
        return np.zeros(values.shape, dtype=bool)
    low, high = display.padding
    padded: np.ndarray = (values >= low) & (values <= high)
    return np.zeros_like(padded) if padded.all() else padded


def _without_outlier(values: np.ndarray) -> np.ndarray:
    """Values whose least or greatest one is far from all others, brought to a quarter of their spread from them.

    It is padding that the source does not state: -32768 around a CT, 65535 where a detector is dead. Black or white it
    shall be, but not take the scale for itself.
    """
    for end in (values.min(), values.max()):
        others = values[values != end]
        if others.size == 0:
            break
        low, high = float(others.min()), float(others.max())
        spread = high - low
        if spread > 0 and max(low - float(end), float(end) - high) > _FAR * spread:
            values = np.clip(values.astype(np.float64), low - spread / 4, high + spread / 4)
    return values


def _samples(image: MedicalImage) -> np.ndarray:
    """At most about a million of the image's values, evenly taken, without padding and outlier."""
    return _without_outlier(_unpadded(image))


def _unpadded(image: MedicalImage) -> np.ndarray:
    """The same, with an outlier."""
    step = max(1, image.frames.size // _PERCENTILE_SAMPLES) | 1  # odd, so that it meets all columns
    parts = []
    for k, frame in enumerate(image.frames):
        values = frame.reshape(-1)[::step]
        parts.append(values[~_padded(values, image.display(k))])
    return np.concatenate(parts)


@cached_per_image
def _ends(image: MedicalImage) -> tuple[float, float]:
    """Between these nearly all of the image's values are; an outlier counts where it can be air, all of one value."""
    values = _unpadded(image)
    low, high = np.percentile(values, (1, 99.9))
    if low < _LEAST_HOUNSFIELD:
        low, high = np.percentile(_without_outlier(values), (1, 99.9))
    return float(low), float(high)


def _is_hounsfield(image: MedicalImage) -> bool:
    """Whether the values are Hounsfield units: the source says so or leaves it open, and there is air or fat in them.

    Of a CT that leaves it open no value may be beyond what such a scale holds; in a volume that tells no modality
    there must be air near -1000 and tissue above 0.
    """
    if image.modality is None and image.is_hounsfield is None:
        low, high = _ends(image)
        return image.is_geometric and _LEAST_HOUNSFIELD <= low <= -800 and 50 <= high <= 4000
    return _can_be_hounsfield(image) and _ends(image)[0] < 0


def _can_be_hounsfield(image: MedicalImage) -> bool:
    """Whether a preset in Hounsfield units can be meant: unless the source or the values of a CT say otherwise."""
    if image.is_hounsfield is not None:
        return image.is_hounsfield
    low, high = _ends(image)
    return image.modality is None or (image.modality == "CT" and low >= _LEAST_HOUNSFIELD and high <= 4100)


@cached_per_image
def _percentile_window(image: MedicalImage) -> Window:
    return _window_between(_samples(image))


def _window_between(values: np.ndarray) -> Window:
    """The window from the lower to the upper percentile of these values; from end to end if these are the same."""
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    width = max(high - low, float(np.finfo(np.float64).tiny))
    return Window(center=low + width / 2, width=width, function="LINEAR_EXACT")


def apply_window(values: np.ndarray, transform: VoiTransform) -> np.ndarray:
    """Modality values to 0..255 by DICOM PS3.3 C.11.2.1.1 (tables), C.11.2.1.2 and C.11.2.1.3 (windows).

    Args:
        values: Any shape, integer or float.
        transform: The window or table.

    Returns:
        uint8 of the same shape.
    """
    return piecewise(partial(_apply, transform=transform), values, np.empty(values.shape, np.uint8))


def _apply(values: np.ndarray, transform: VoiTransform) -> np.ndarray:
    if isinstance(transform, VoiTable):
        outputs = np.frombuffer(transform.outputs, np.uint8)
        places = np.rint(values.astype(np.float64) - transform.first_mapped)
        return outputs[np.clip(places, 0, len(outputs) - 1).astype(np.intp)]
    real: Any = np.float32 if values.dtype in _SMALL_INTEGERS and transform.width >= 1 else np.float64
    x: Any = values.astype(real)
    center, width, half = (real(number) for number in (transform.center, transform.width, 0.5))
    with np.errstate(over="ignore"):  # far outside a narrow window; it is clipped
        if transform.function == "LINEAR_EXACT":
            y = (x - center) / width + half
        elif transform.function == "SIGMOID":
            y = 1 / (1 + np.exp(np.clip(-4 * (x - center) / width, -80, 80)))
        elif transform.width == 1:
            y = (x > center - half).astype(real)
        else:
            y = (x - (center - half)) / (width - 1) + half
    return (np.clip(y, 0, 1) * 255 + half).astype(np.uint8)


def select_frame(image: MedicalImage, k: int) -> np.ndarray:
    """``(rows, columns)`` modality values or ``(rows, columns, 3)`` uint8 of frame ``k``.

    Raises:
        PromptError: If k is not a frame of the image.
    """
    if not 0 <= k < image.frame_count:
        raise PromptError(f"there is no frame {k}; the image has frames 0 to {image.frame_count - 1}")
    frame: np.ndarray = image.frames[k]
    return frame


def windowed_frame(image: MedicalImage, k: int, transform: VoiTransform | None) -> np.ndarray:
    """``(rows, columns, 3)`` uint8 of frame ``k``, as a SAM model sees it.

    Padding is black, also where the window or MONOCHROME1 would show it bright.

    Args:
        image: Has the frame.
        k: Its number.
        transform: See :func:`choose_window`.

    Raises:
        PromptError: If k is not a frame of the image.
    """
    values = frame = select_frame(image, k)
    if transform is not None:
        frame = apply_window(frame, transform)
    if image.is_colour:
        return np.ascontiguousarray(frame)
    if image.inverted:
        frame = 255 - frame
    if image.display(k).padding is not None:
        frame = np.where(_padded(values, image.display(k)), np.uint8(0), frame)
    return grey_to_rgb(frame)


def requested_window(
    image: MedicalImage, k: int, asked: Window | str = AUTO
) -> tuple[VoiTransform | None, AppliedWindow]:
    """How to show frame ``k`` for what a client asked for.

    Args:
        image: To be windowed.
        k: The frame's number.
        asked: A :class:`Window` or a preset's name.

    Raises:
        PromptError: As :func:`choose_window`.
    """
    if isinstance(asked, Window):
        return choose_window(image, k, requested=asked)
    return choose_window(image, k, preset=asked)


def volume_pictures(
    image: MedicalImage, anchor: int, asked: Window | str = AUTO
) -> tuple[Callable[[int], np.ndarray], AppliedWindow]:
    """The frames of a volume as they are to be compared with each other: alike, as far as they can be.

    Args:
        image: The volume.
        anchor: The frame that a user marked. Its window holds for all; a frame of which it shows nothing, as those of
            another scale, gets its own.
        asked: As for :func:`requested_window`.

    Returns:
        A function that gives frame ``k`` as :func:`windowed_frame` does, and the anchor's window.

    Raises:
        PromptError: As :func:`choose_window`.
    """
    transform, applied = requested_window(image, anchor, asked)

    def picture(k: int) -> np.ndarray:
        keep = isinstance(asked, Window) or not _hides(image, k, select_frame(image, k), transform)
        return windowed_frame(image, k, transform if keep else requested_window(image, k, asked)[0])

    return picture, applied


class WindowFramed(Transform):
    """Take ``image``, ``slice`` and ``request``, give ``frame`` as ``(H, W, 3)`` uint8 and ``window`` as applied."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Select and window.

        Raises:
            PromptError: For a frame or a preset that there is not.
        """
        request: SegmentRequest = data[REQUEST]
        image, k = data["image"], data["slice"]
        with current_clock().stage("window"):
            transform, applied = requested_window(image, k, request.options.window)
            frame = windowed_frame(image, k, transform)
        return {**data, "frame": frame, "window": applied}
