"""PNG, JPEG, TIFF and BMP, by Pillow."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps

from lib.imaging.guard import SizeLimits, corrupt_on_failure
from lib.imaging.image import LPS_TO_RAS, CorruptImageError, ImageTooLargeError, MedicalImage, UnsupportedImageError

_PHOTOMETRIC = 262
_ORIENTATION = 274
_X_RESOLUTION = 282
_Y_RESOLUTION = 283
_RESOLUTION_UNIT = 296
_SAMPLE_FORMAT = 339
_WHITE_IS_ZERO = 0
_UNSIGNED = 1
_SIGNED = 2
_UINT16_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


def read_raster(file: BinaryIO, file_format: str, *, limits: SizeLimits) -> MedicalImage:
    """Read a raster image as a browser shows it: EXIF orientation applied, transparent parts black.

    Transparency is composed on black, the background of medical viewers (a browser would show the page's own
    background). Grey stays grey: 1 bit becomes uint8 0/255, 8 bits uint8, 16 bits uint16, 32 bits (TIFF) int32,
    uint32 or float32; what a TIFF calls signed stays so. Palette, CMYK and other colour becomes 8-bit RGB, as do
    16 bits with colour or transparency. No windowing. The pages of a TIFF are frames; of a PNG or JPEG that holds
    several images the first is read.

    Args:
        file: The open file, at its start.
        file_format: "PNG", "JPEG", "TIFF" or "BMP".
        limits: The most that is read; checked before decoding, as is Pillow's own limit against decompression bombs.

    Returns:
        The image, without geometry but for the size of its pixels, as far as ITK has one. ``inverted`` for 16- and
        32-bit TIFF whose zero is white.

    Raises:
        CorruptImageError: The file is truncated or damaged, or the pages of a TIFF differ in size or kind.
        UnsupportedImageError: A pixel layout that Pillow does not read.
        ImageTooLargeError: Larger than ``limits`` or than Pillow's limit.
    """
    damaged = f"the {file_format} image is truncated, damaged or of a variant that is not read"
    pages: list[np.ndarray] = []
    with corrupt_on_failure(damaged):
        try:
            with Image.open(file, formats=[file_format]) as image:
                page_count = _count_pages(image, limits) if file_format == "TIFF" else 1
                limits.check(page_count, image.height, image.width)
                inverted, affine = _is_white_zero(image), _affine(image)
                for page in range(page_count):
                    image.seek(page)
                    limits.check(page_count, image.height, image.width)
                    pages.append(_page_array(image))
        except Image.DecompressionBombError as error:
            raise ImageTooLargeError("the image has more pixels than are decoded safely") from error
    if len({(page.shape, page.dtype) for page in pages}) > 1:
        raise CorruptImageError("the pages of the TIFF image differ in size or in kind of pixel")
    return MedicalImage(frames=np.stack(pages), affine=affine, file_format=file_format, inverted=inverted)


def _affine(image: Image.Image) -> np.ndarray:
    """What ITK has: 1 mm, or what a JPEG or a TIFF says by its resolution in dots an inch or a centimetre."""
    unit, density = image.info.get("jfif_unit", 0), image.info.get("jfif_density", (0, 0))
    length = {1: 25.4, 2: 10.0}.get(unit) if image.format == "JPEG" else None
    if image.format == "TIFF":
        length = {2: 25.4, 3: 10.0}.get(_tag(image, _RESOLUTION_UNIT, 1))
        density = (float(_tag(image, _X_RESOLUTION, 0)), float(_tag(image, _Y_RESOLUTION, 0)))
    if length is None or not all(0 < dots < np.inf for dots in density):
        return LPS_TO_RAS.copy()
    columns, rows = density[::-1] if image.getexif().get(_ORIENTATION, 1) > 4 else density
    return np.asarray(LPS_TO_RAS @ np.diag([length / columns, length / rows, 1, 1]))


def _count_pages(image: Image.Image, limits: SizeLimits) -> int:
    """How many pages a TIFF has; no more of its directories are walked than may be read."""
    for page in range(limits.max_frames + 1):
        try:
            image.seek(page)
        except EOFError:
            image.seek(0)
            return page
    raise ImageTooLargeError(f"the image has more frames than the {limits.max_frames} that are read at most")


def _page_array(image: Image.Image) -> np.ndarray:
    """The current page, decoded: ``(rows, columns)`` or ``(rows, columns, 3)``."""
    sample_format = _tag(image, _SAMPLE_FORMAT, _UNSIGNED) if image.format == "TIFF" else None
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "1":
        return np.asarray(upright, dtype=np.uint8) * np.uint8(255)
    if upright.mode in _UINT16_MODES:
        deep = np.asarray(upright).astype(np.uint16)
        transparent = upright.info.get("transparency")  # the one value that a PNG names so
        return deep if transparent is None else np.where(deep == transparent, np.uint16(0), deep)
    if upright.mode == "I":
        values = np.asarray(upright, dtype=np.int32)
        return values.view(np.uint32) if sample_format == _UNSIGNED and values.min() < 0 else values
    if upright.mode == "F":
        return finite(np.asarray(upright, dtype=np.float32))
    if upright.has_transparency_data:
        grey = upright.mode in ("L", "LA", "La")
        layered = upright.convert("RGBA")
        flat = Image.alpha_composite(Image.new("RGBA", layered.size, (0, 0, 0, 255)), layered)
        return np.asarray(flat.convert("L" if grey else "RGB"))
    if upright.mode == "L":
        shallow = np.asarray(upright)
        return shallow.view(np.int8) if sample_format == _SIGNED else shallow
    try:
        return np.asarray(upright.convert("RGB"))
    except ValueError as error:
        raise UnsupportedImageError(f"pixels of the layout {upright.mode} are not read") from error


def finite(values: np.ndarray) -> np.ndarray:
    """Replace NaN and infinities by the smallest finite value (by 0 if there is none).

    Args:
        values: Any shape, float.

    Returns:
        The same array if all of it is finite, else a copy of the same dtype.
    """
    good = np.isfinite(values)
    if good.all():
        return values
    return np.where(good, values, values[good].min() if good.any() else 0).astype(values.dtype)


def _is_white_zero(image: Image.Image) -> bool:
    """Whether low values are bright: Pillow inverts such TIFFs of 1 and 8 bits itself, deeper ones not."""
    return image.mode in (*_UINT16_MODES, "I", "F") and _tag(image, _PHOTOMETRIC, None) == _WHITE_IS_ZERO


def _tag(image: Image.Image, number: int, default: int | None) -> Any:
    """A TIFF tag's (first) value."""
    value = getattr(image, "tag_v2", {}).get(number, default)
    if isinstance(value, tuple):
        value = value[0] if value else default
    return value
