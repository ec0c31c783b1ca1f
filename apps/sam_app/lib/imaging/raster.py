"""PNG, JPEG and BMP, by Pillow; PNG of 16 bits with colour or an alpha channel by imagecodecs."""

from __future__ import annotations

from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image, ImageOps

from lib.imaging.codestream import read_codestream
from lib.imaging.guard import SizeLimits, corrupt_on_failure
from lib.imaging.image import ImageTooLargeError, MedicalImage, UnsupportedImageError, affine_of_pixels

_JPEG_HEADER = 1024 * 1024
_ORIENTATION = 274
_DEEP_LAYOUTS = ("LA;16B", "RGB;16B", "RGBA;16B")
_UINT16_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


def read_raster(file: BinaryIO, file_format: str, *, limits: SizeLimits) -> MedicalImage:
    """Read a raster image as a browser shows it: EXIF orientation applied, transparent parts black.

    Transparency is composed on black, the background of medical viewers (a browser would show the page's own
    background); what is most opaque counts as opaque, and one degree everywhere is none. Grey stays grey, also if it is
    stored as 16-bit RGB: 1 bit becomes uint8 0/255, 8 bits uint8, 16 bits uint16. Palette, CMYK and other colour
    becomes 8-bit RGB, of deeper samples the 8 bits from the highest one that is used. No windowing. Of a PNG or JPEG
    that holds several images the first is read.

    Args:
        file: The open file, at its start.
        file_format: "PNG", "JPEG" or "BMP".
        limits: The most that is read; checked before decoding, as is Pillow's own limit against decompression bombs.

    Returns:
        The image, without geometry but for the size of its pixels, as far as ITK has one.

    Raises:
        CorruptImageError: The file is truncated or damaged.
        UnsupportedImageError: A kind of JPEG or a pixel layout that Pillow does not read.
        ImageTooLargeError: Larger than ``limits`` or than Pillow's limit.
    """
    if file_format == "JPEG":
        _check_jpeg(file)
    damaged = f"the {file_format} image is truncated, damaged or of a variant that is not read"
    with corrupt_on_failure(damaged):
        try:
            with Image.open(file, formats=[file_format]) as image:
                limits.check(1, image.height, image.width)
                pixels, affine = _deep_array(file) if _is_deep_png(image) else _page_array(image), _affine(image)
        except Image.DecompressionBombError as error:
            raise ImageTooLargeError("the image has more pixels than are decoded safely") from error
    return MedicalImage(frames=pixels[np.newaxis], affine=affine, file_format=file_format)


def _affine(image: Image.Image) -> np.ndarray:
    """As ITK: 1 mm, or what a JPEG says by its resolution in dots an inch or a centimetre."""
    length = {1: 25.4, 2: 10.0}.get(image.info.get("jfif_unit", 0)) if image.format == "JPEG" else None
    is_turned = image.getexif().get(_ORIENTATION, 1) > 4
    return affine_of_pixels(length, image.info.get("jfif_density", (0, 0)), is_turned=is_turned)


def _check_jpeg(file: BinaryIO) -> None:
    """Refuse, by its name, a JPEG that browsers do not show either."""
    header = read_codestream(file.read(_JPEG_HEADER))
    file.seek(0)
    if header is not None and (header.is_lossless or header.precision != 8):
        kind = "lossless" if header.is_lossless else f"of {header.precision} bits"
        raise UnsupportedImageError(
            f"found: JPEG image, {kind}. Those of 8 bits, not lossless, are read; PNG keeps more"
        )


def _page_array(image: Image.Image) -> np.ndarray:
    """The picture, decoded: ``(rows, columns)`` or ``(rows, columns, 3)``."""
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode == "1":
        return np.asarray(upright, dtype=np.uint8) * np.uint8(255)
    if upright.mode in _UINT16_MODES:
        deep = np.asarray(upright).astype(np.uint16)
        transparent = upright.info.get("transparency")  # the one value that a PNG names so
        return deep if transparent is None else np.where(deep == transparent, np.uint16(0), deep)
    if upright.has_transparency_data:
        grey = upright.mode in ("L", "LA", "La")
        layered = np.asarray(upright.convert("RGBA"))
        colours = on_black(layered[..., :3], layered[..., 3])
        return np.ascontiguousarray(colours[..., 0]) if grey else colours
    if upright.mode == "L":
        return np.asarray(upright)
    try:
        return np.asarray(upright.convert("RGB"))
    except ValueError as error:
        raise UnsupportedImageError(f"pixels of the layout {upright.mode} are not read") from error


def _is_deep_png(image: Image.Image) -> bool:
    """Whether it has 16-bit samples with colour or an alpha channel; turned ones are left to Pillow."""
    layout = "".join(str(tile[3]) for tile in getattr(image, "tile", [])[:1]) if image.format == "PNG" else ""
    is_plain = "transparency" not in image.info and image.getexif().get(_ORIENTATION, 1) == 1
    return layout in _DEEP_LAYOUTS and is_plain


def _deep_array(file: BinaryIO) -> np.ndarray:
    """A PNG of 16-bit samples: ``(rows, columns)`` uint16 or ``(rows, columns, 3)`` uint8."""
    file.seek(0)
    samples = imagecodecs.png_decode(file.read())
    colours = samples[..., : 3 if samples.shape[2] > 2 else 1]
    if samples.shape[2] in (2, 4):
        colours = on_black(colours, samples[..., -1])
    if (colours == colours[..., :1]).all():
        return np.ascontiguousarray(colours[..., 0])
    return (colours >> max(0, int(colours.max()).bit_length() - 8)).astype(np.uint8)


def on_black(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """``(rows, columns, channels)`` with ``(rows, columns)`` transparency composed on black, of the same dtype."""
    most = alpha.max()
    if alpha.min() == most:
        return np.ascontiguousarray(colours)
    share = alpha.astype(np.float32)[..., np.newaxis] / np.float32(most)
    return np.rint(colours * share).astype(colours.dtype)


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
