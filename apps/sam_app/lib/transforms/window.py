"""Choose the window of a frame, and convert modality values by it to the 8-bit picture that a SAM model sees.

The first rule that applies is used: the window of the request; a preset that the request names, if the values can be
Hounsfield units; the VOI transforms that the source states for this frame, in their order; 8-bit data unchanged; for
Hounsfield units, stated or recognised by their values, the soft-tissue preset; the 0.5th and 99.5th percentile of the
whole image without padding, so that all slices of a volume look alike; finally those percentiles of this frame.

A window that the request does not give in numbers is skipped if it shows the frame all black, white or grey although
the frame has content (:mod:`lib.transforms.visibility`); the ``source`` returned to the client says so. This happens
because files state unsuitable windows, and because an image may use few of the values that 8 or 16 bits allow.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from lib.base.clock import current_clock
from lib.imaging.decoding.piecewise import piecewise
from lib.imaging.image import Display, MedicalImage, VoiTable, VoiTransform, Window
from lib.imaging.image_cache import cached_per_image
from lib.imaging.views import grey_to_rgb
from lib.sam.prompts import PromptError
from lib.transforms.request import AUTO, REQUEST, SegmentRequest
from lib.transforms.visibility import hides_content, is_uninformative, subsample

_MIN_HOUNSFIELD = -3100
"""A little below the values with which scanners fill the corners outside the field of view."""

PRESETS: dict[str, Window] = {
    "abdomen": Window(40, 400),
    "lung": Window(-600, 1500),
    "mediastinum": Window(50, 350),
    "bone": Window(400, 1800),
    "brain": Window(40, 80),
    "liver": Window(60, 160),
}
"""CT windows in Hounsfield units, as commonly used in radiology."""

_CT_DEFAULT = "abdomen"
_PERCENTILES = (0.5, 99.5)
_PERCENTILE_SAMPLES = 1_000_000
_LAST_SOURCE = "frame percentiles"
_OUTLIER_SPREADS = 4
"""A value is an outlier if its distance from all others is more than this many times their spread."""
_SMALL_INTEGERS = (np.int8, np.uint8, np.int16, np.uint16)
"""Types whose values, and their differences, float32 represents exactly."""


@dataclass(frozen=True)
class AppliedWindow:
    """The window that was used and its source.

    Args:
        center, width: In modality units; None for data shown unchanged or by a table.
        source: ``request``, ``preset <name>``, ``image``, ``image LUT``, ``8-bit``, ``CT preset <name>``,
            ``percentiles`` or ``frame percentiles``; then in brackets the windows that were skipped before it, and
            why: ``percentiles (image: shows nothing)``.
    """

    center: float | None
    width: float | None
    source: str


def choose_window(image: MedicalImage, k: int, asked: Window | str = AUTO) -> tuple[VoiTransform | None, AppliedWindow]:
    """Choose the window or table for frame ``k`` by this module's rules; None: show 8-bit values unchanged.

    Args:
        image: The image.
        k: The frame's number.
        asked: A client's option ``window``: a window, or a preset's name.

    Raises:
        PromptError: If the preset or the frame does not exist; the message lists the valid ones.
    """
    preset = AUTO if isinstance(asked, Window) else asked
    if preset != AUTO and preset not in PRESETS:
        raise PromptError(f"there is no window {preset!r}; it can be {AUTO}, {', '.join(PRESETS)}")
    frame = select_frame(image, k)
    if isinstance(asked, Window) and not image.is_colour:
        needs_exact = asked.function == "LINEAR" and image.frames.dtype.kind == "f"  # LINEAR is defined for integers
        window = replace(asked, function="LINEAR_EXACT") if needs_exact else asked
        return window, AppliedWindow(asked.center, asked.width, "request")
    skipped: list[str] = []
    if preset != AUTO and not image.is_colour and not _can_be_hounsfield(image):
        skipped.append(f"preset {preset}: no Hounsfield units")
        preset = AUTO
    if image.display(k).is_invalid:
        skipped.append("image: not valid")
    transform: VoiTransform | None = None
    source = ""
    for transform, source in _candidates(image, k, preset):
        if source == _LAST_SOURCE or not _hides_frame(image, k, frame, transform):
            break
        skipped.append(f"{source}: shows nothing")
    reasons = f" ({'; '.join(skipped)})" if skipped else ""
    if isinstance(transform, Window):
        return transform, AppliedWindow(transform.center, transform.width, source + reasons)
    return transform, AppliedWindow(None, None, source + reasons)


def _candidates(image: MedicalImage, k: int, preset: str) -> Iterator[tuple[VoiTransform | None, str]]:
    """Yield the windows other than one given in numbers, each with its source, in the order of the rules."""
    if not image.is_colour:
        if preset != AUTO:
            yield PRESETS[preset], f"preset {preset}"
        for transform in image.display(k).transforms:
            yield transform, "image LUT" if isinstance(transform, VoiTable) else "image"
    if image.frames.dtype == np.uint8:
        yield None, "8-bit"
    elif not image.is_colour and is_hounsfield(image):
        yield PRESETS[_CT_DEFAULT], f"CT preset {_CT_DEFAULT}"
    yield _percentile_window(image), "percentiles"
    frame = image.frames[k]
    yield _window_between(_without_outlier(frame[~_padding_mask(frame, image.display(k))])), _LAST_SOURCE


def _hides_frame(image: MedicalImage, k: int, frame: np.ndarray, transform: VoiTransform | None) -> bool:
    """Return whether a window hides the content of a frame that has some.

    A CT slice of air may be black in a window that suits the other slices: calibrated values need no other window.
    """

    def shown(values: np.ndarray) -> np.ndarray:
        return values if transform is None else apply_window(values, transform)

    def of_interest(values: np.ndarray) -> np.ndarray:
        return ~_padding_mask(values, image.display(k))

    some = subsample(frame)
    if not is_uninformative(shown(some)[of_interest(some)]):
        return False
    if not hides_content(frame, shown(frame), of_interest(frame)):
        return False
    return not (is_hounsfield(image) and not is_uninformative(shown(_samples(image))))


def _padding_mask(values: np.ndarray, display: Display) -> np.ndarray:
    """Return which values are padding, bool of the same shape; none if all would be, as then the range is wrong."""
    if display.padding is None:
        return np.zeros(values.shape, dtype=bool)
    low, high = display.padding
    padded: np.ndarray = (values >= low) & (values <= high)
    return np.zeros_like(padded) if padded.all() else padded


def _without_outlier(values: np.ndarray) -> np.ndarray:
    """Move a lowest or highest value that is far from all others to a quarter of their spread beyond them.

    Such a value is padding that the source does not state: -32768 around a CT, 65535 in dead detector pixels. It is
    shown black or white, but must not use up the grey scale.
    """
    for end in (values.min(), values.max()):
        others = values[values != end]
        if others.size == 0:
            break
        low, high = float(others.min()), float(others.max())
        spread = high - low
        if spread > 0 and max(low - float(end), float(end) - high) > _OUTLIER_SPREADS * spread:
            values = np.clip(values.astype(np.float64), low - spread / 4, high + spread / 4)
    return values


def _samples(image: MedicalImage) -> np.ndarray:
    """Return an even sample of about a million of the image's values at most, without padding and outliers."""
    return _without_outlier(_unpadded(image))


def _unpadded(image: MedicalImage) -> np.ndarray:
    """Return an even sample of about a million of the image's values at most, without padding."""
    step = max(1, image.frames.size // _PERCENTILE_SAMPLES) | 1  # odd, so that it reaches all columns
    parts = []
    for k, frame in enumerate(image.frames):
        values = frame.reshape(-1)[::step]
        parts.append(values[~_padding_mask(values, image.display(k))])
    return np.concatenate(parts)


@cached_per_image
def _value_range(image: MedicalImage) -> tuple[float, float]:
    """Return the range of nearly all of the image's values; an outlier counts if it can be air of a single value."""
    values = _unpadded(image)
    low, high = np.percentile(values, (1, 99.9))
    if low < _MIN_HOUNSFIELD:
        low, high = np.percentile(_without_outlier(values), (1, 99.9))
    return float(low), float(high)


def is_hounsfield(image: MedicalImage) -> bool:
    """Return whether values are Hounsfield units: the source does not deny it, and they include air or fat.

    If a CT does not state it, no value may exceed the Hounsfield scale; a volume without a stated modality must have
    air near -1000 and tissue above 0.
    """
    if image.modality is None and image.is_hounsfield is None:
        low, high = _value_range(image)
        return image.is_geometric and _MIN_HOUNSFIELD <= low <= -800 and 50 <= high <= 4000
    return _can_be_hounsfield(image) and _value_range(image)[0] < 0


def _can_be_hounsfield(image: MedicalImage) -> bool:
    """Return whether a Hounsfield preset is possible: neither the source nor the values of a CT rule it out."""
    if image.is_hounsfield is not None:
        return image.is_hounsfield
    low, high = _value_range(image)
    return image.modality is None or (image.modality == "CT" and low >= _MIN_HOUNSFIELD and high <= 4100)


@cached_per_image
def _percentile_window(image: MedicalImage) -> Window:
    return _window_between(_samples(image))


def _window_between(values: np.ndarray) -> Window:
    """Return the window from the lower to the upper percentile; from minimum to maximum if these are equal."""
    low, high = (float(value) for value in np.percentile(values, _PERCENTILES))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    width = max(high - low, float(np.finfo(np.float64).tiny))
    return Window(center=low + width / 2, width=width, function="LINEAR_EXACT")


def apply_window(values: np.ndarray, transform: VoiTransform) -> np.ndarray:
    """Convert modality values to 0..255 by DICOM PS3.3 C.11.2.1.1 (tables), C.11.2.1.2 and C.11.2.1.3 (windows).

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
    with np.errstate(over="ignore"):  # values far outside a narrow window; clipped below
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
    """Return frame ``k``: ``(rows, columns)`` modality values or ``(rows, columns, 3)`` uint8.

    Raises:
        PromptError: If k is not a frame of the image.
    """
    if not 0 <= k < image.frame_count:
        raise PromptError(f"there is no frame {k}; the image has frames 0 to {image.frame_count - 1}")
    return image.frames[k]


def windowed_frame(image: MedicalImage, k: int, transform: VoiTransform | None) -> np.ndarray:
    """Return frame ``k`` as a SAM model sees it, ``(rows, columns, 3)`` uint8.

    Padding is black, also where the window or MONOCHROME1 would show it bright.

    Args:
        image: The image.
        k: The frame's number.
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
        frame = np.where(_padding_mask(values, image.display(k)), np.uint8(0), frame)
    return grey_to_rgb(frame)


def volume_pictures(
    image: MedicalImage, anchor: int, asked: Window | str = AUTO
) -> tuple[Callable[[int], np.ndarray], AppliedWindow]:
    """Window the frames of a volume alike, as far as possible, so that they can be compared with each other.

    Args:
        image: The volume.
        anchor: The frame that a user marked. Its window is used for all frames, except for one whose content it hides
            (of another scale, say): that gets its own.
        asked: As for :func:`choose_window`.

    Returns:
        A function that returns frame ``k`` as :func:`windowed_frame` does, and the anchor's window.

    Raises:
        PromptError: As :func:`choose_window`.
    """
    transform, applied = choose_window(image, anchor, asked)

    def picture(k: int) -> np.ndarray:
        suits = isinstance(asked, Window) or not _hides_frame(image, k, select_frame(image, k), transform)
        return windowed_frame(image, k, transform if suits else choose_window(image, k, asked)[0])

    return picture, applied


class WindowFramed:
    """Add ``frame``, ``(H, W, 3)`` uint8, and the applied ``window``, from ``image``, ``slice`` and ``request``."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Select and window the frame.

        Raises:
            PromptError: If the frame or the preset does not exist.
        """
        request: SegmentRequest = data[REQUEST]
        image, k = data["image"], data["slice"]
        with current_clock().stage("window"):
            transform, applied = choose_window(image, k, request.options.window)
            frame = windowed_frame(image, k, transform)
        return {**data, "frame": frame, "window": applied}
