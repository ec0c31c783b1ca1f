"""Reading of PNG, JPEG and BMP with Pillow, and of 16-bit PNG with colour or an alpha channel with imagecodecs."""

import io
from typing import BinaryIO

import imagecodecs
import numpy as np
from PIL import Image, ImageOps

from lib.imaging.decoding.codestream import check_scans, read_codestream
from lib.imaging.decoding.frame_decoders import with_end_marker
from lib.imaging.decoding.isolation import claim
from lib.imaging.decoding.parse_errors import corrupt_on_failure
from lib.imaging.image import ImageTooLargeError, MedicalImage, UnsupportedImageError, affine_of_pixels
from lib.imaging.limits import Limits

_MAX_JPEG_HEADER_BYTES = 1024 * 1024
_ORIENTATION = 274
_DEEP_LAYOUTS = ("LA;16B", "RGB;16B", "RGBA;16B")
_UINT16_MODES = ("I;16", "I;16L", "I;16B", "I;16N")
_BYTES_PER_PIXEL = {"1": 8, "L": 6, "RGB": 18, **dict.fromkeys(_UINT16_MODES, 15)}
_MAX_BYTES_PER_PIXEL, _DEEP_BYTES_PER_PIXEL, _PROGRESSIVE_BYTES_PER_PIXEL = 24, 36, 8
"""Pillow's picture, its copies on the way to an array, and three times the array (see :func:`claim`); for 16-bit
samples with colour; and in addition for the coefficients that a progressive JPEG keeps until its last scan."""
_PIXELS_AT_ONCE = 1 << 20


def read_raster(file: BinaryIO, file_format: str, *, limits: Limits) -> MedicalImage:
    """Read a raster image as a browser displays it: EXIF orientation applied, transparent parts black.

    Transparency is blended with black, the background of medical viewers (a browser would use the page's). The most
    opaque pixels count as opaque, and uniform transparency is ignored. Grey stays grey, even if stored as 16-bit RGB: 1
    bit becomes uint8 0/255, 8 bits uint8, 16 bits uint16. Palette, CMYK and other colour become 8-bit RGB; of deeper
    samples the 8 bits from the highest used bit. No windowing. Of several images in a PNG or JPEG the first is read.

    Args:
        file: The open file, at its start.
        file_format: "PNG", "JPEG" or "BMP".
        limits: Size limits; checked before decoding, as is Pillow's own limit against decompression bombs.

    Returns:
        The image, without geometry except for the pixel size, if ITK would read one.

    Raises:
        CorruptImageError: The file is truncated or damaged.
        UnsupportedImageError: A kind of JPEG or a pixel layout that Pillow does not support.
        ImageTooLargeError: Larger than ``limits`` or than Pillow's limit.
    """
    if file_format == "JPEG":
        _check_jpeg(file)
    damaged = f"the {file_format} image is truncated, damaged or of an unsupported variant"
    with corrupt_on_failure(damaged):
        try:
            with Image.open(file, formats=[file_format]) as image:
                limits.check(1, image.height, image.width)
                claim(_peak_bytes_per_pixel(image) * image.width * image.height, image.width * image.height)
                pixels, affine = (
                    _deep_array(file) if _is_deep_png(image) else _page_array(_loaded(image, file)),
                    _affine(image),
                )
        except Image.DecompressionBombError as error:
            raise ImageTooLargeError("the image has more pixels than can be decoded safely") from error
    return MedicalImage(frames=pixels[np.newaxis], affine=affine, file_format=file_format)


def _affine(image: Image.Image) -> np.ndarray:
    """Return ITK's affine: 1 mm, or a JPEG's resolution in dots per inch or centimetre."""
    length = {1: 25.4, 2: 10.0}.get(image.info.get("jfif_unit", 0)) if image.format == "JPEG" else None
    is_turned = image.getexif().get(_ORIENTATION, 1) > 4
    return affine_of_pixels(length, image.info.get("jfif_density", (0, 0)), is_turned=is_turned)


def _peak_bytes_per_pixel(image: Image.Image) -> int:
    """Return the peak memory per pixel while the picture is read, in bytes."""
    if _layout(image) in _DEEP_LAYOUTS:
        return _DEEP_BYTES_PER_PIXEL
    is_plain = "transparency" not in image.info
    bytes_per_pixel = _BYTES_PER_PIXEL.get(image.mode, _MAX_BYTES_PER_PIXEL) if is_plain else _MAX_BYTES_PER_PIXEL
    return bytes_per_pixel + (_PROGRESSIVE_BYTES_PER_PIXEL if image.info.get("progressive") else 0)


def _check_jpeg(file: BinaryIO) -> None:
    """Refuse JPEGs of kinds that browsers do not display either, and JPEGs with too many scans."""
    content = file.read()
    header = read_codestream(content[:_MAX_JPEG_HEADER_BYTES])
    check_scans(content)
    file.seek(0)
    if header is not None and (header.is_lossless or header.precision != 8):
        kind = "lossless" if header.is_lossless else f"of {header.precision} bits"
        raise UnsupportedImageError(f"found: JPEG image, {kind}. Only lossy JPEG of 8 bits is supported; send a PNG")


def _loaded(image: Image.Image, file: BinaryIO) -> Image.Image:
    """Return the decoded picture; a JPEG that lacks only its end marker is accepted."""
    try:
        image.load()
        return image
    except OSError:
        if image.format != "JPEG":
            raise
    file.seek(0)
    whole = Image.open(io.BytesIO(with_end_marker(file.read())), formats=["JPEG"])
    whole.load()
    return whole


def _page_array(image: Image.Image) -> np.ndarray:
    """Convert a decoded picture to ``(rows, columns)`` or ``(rows, columns, 3)``."""
    ImageOps.exif_transpose(image, in_place=True)
    upright = image
    if upright.mode == "1":
        return np.asarray(upright, dtype=np.uint8) * np.uint8(255)
    if upright.mode in _UINT16_MODES:
        deep = np.asarray(upright).astype(np.uint16)
        transparent = upright.info.get("transparency")  # the single grey value that a PNG declares as transparent
        return deep if transparent is None else np.where(deep == transparent, np.uint16(0), deep)
    if upright.has_transparency_data:
        grey = upright.mode in ("L", "LA", "La")
        layered = np.asarray(upright if upright.mode == "RGBA" else upright.convert("RGBA"))
        colours = blend_with_black(layered[..., :3], layered[..., 3])
        return np.ascontiguousarray(colours[..., 0]) if grey else colours
    if upright.mode in ("L", "RGB"):
        return np.asarray(upright)
    try:
        return np.asarray(upright.convert("RGB"))
    except ValueError as error:
        raise UnsupportedImageError(f"pixels of the layout {upright.mode} are not supported") from error


def _layout(image: Image.Image) -> str:
    """Return the sample layout of a PNG as stored in its file; known only until it is decoded."""
    return "".join(str(tile[3]) for tile in getattr(image, "tile", [])[:1]) if image.format == "PNG" else ""


def _is_deep_png(image: Image.Image) -> bool:
    """Return whether a PNG has 16-bit samples with colour or an alpha channel, and needs no rotation by Pillow."""
    layout = _layout(image)
    is_plain = "transparency" not in image.info and image.getexif().get(_ORIENTATION, 1) == 1
    return layout in _DEEP_LAYOUTS and is_plain


def _deep_array(file: BinaryIO) -> np.ndarray:
    """Read a PNG of 16-bit samples: ``(rows, columns)`` uint16 or ``(rows, columns, 3)`` uint8."""
    file.seek(0)
    samples = imagecodecs.png_decode(file.read())
    colours = samples[..., : 3 if samples.shape[2] > 2 else 1]
    if samples.shape[2] in (2, 4):
        colours = blend_with_black(colours, samples[..., -1])
    if (colours == colours[..., :1]).all():
        return np.ascontiguousarray(colours[..., 0])
    return (colours >> max(0, int(colours.max()).bit_length() - 8)).astype(np.uint8)


def blend_with_black(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Blend ``(rows, columns, channels)`` with black by ``(rows, columns)`` transparency; the dtype is kept."""
    most = alpha.max()
    if alpha.min() == most:
        return np.ascontiguousarray(colours)
    composed = np.empty(colours.shape, colours.dtype)
    step = max(1, _PIXELS_AT_ONCE // colours.shape[1])
    for rows in (slice(top, top + step) for top in range(0, len(colours), step)):
        share = alpha[rows].astype(np.float32)[..., np.newaxis] / np.float32(most)
        composed[rows] = np.rint(colours[rows] * share)
    return composed
