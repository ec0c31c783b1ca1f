"""Reading of TIFF and BigTIFF, using tifffile and the decoders of imagecodecs.

TIFF has countless variants. The supported ones are selected by their tags, before anything is decoded, so that
unsupported files are never reported as damaged.
"""

import logging
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from lib.imaging.decoding.codestream import read_codestream
from lib.imaging.decoding.isolation import claim
from lib.imaging.decoding.parse_errors import corrupt_on_failure
from lib.imaging.decoding.piecewise import finite
from lib.imaging.formats.raster import blend_with_black
from lib.imaging.image import (
    CorruptImageError,
    ImageTooLargeError,
    MedicalImage,
    UnsupportedImageError,
    affine_of_pixels,
)
from lib.imaging.limits import Limits

logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # its log repeats its errors, and quotes the file

_DAMAGED = "the TIFF image is truncated, damaged or of an unsupported variant"
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_ORIENTATION, _NEW_SUBFILE_TYPE, _SUBFILE_TYPE = 274, 254, 255
_NOT_AN_IMAGE = 0b101
"""Bits of NewSubfileType: a reduced version of another page, a transparency mask."""

_CODESTREAMS = (COMPRESSION.JPEG, COMPRESSION.JPEG2000, COMPRESSION.JPEG_2000_LOSSY, COMPRESSION.APERIO_JP2000_RGB)
"""Compressions whose decoder takes the size from the data instead of the tags."""
_COMPRESSIONS = {
    *_CODESTREAMS,
    *(COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.PACKBITS, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE),
    *(
        COMPRESSION.CCITTRLE,
        COMPRESSION.CCITTFAX3,
        COMPRESSION.CCITTFAX4,
        COMPRESSION.ZSTD,
        COMPRESSION.ZSTD_DEPRECATED,
    ),
}
_GREY = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK)
_COLOUR: dict[int, int] = {PHOTOMETRIC.RGB: 3, PHOTOMETRIC.YCBCR: 3, PHOTOMETRIC.SEPARATED: 4}
"""Samples per pixel by Photometric Interpretation, without transparency."""
_WHOLE_SLIDES = {
    **{"is_svs": "Aperio SVS", "is_ndpi": "Hamamatsu NDPI", "is_scn": "Leica SCN", "is_bif": "Ventana BIF"},
    **{"is_philips": "Philips TIFF", "is_qpi": "PerkinElmer QPI"},
}
_KINDS = {"i": "signed", "u": "unsigned", "f": "floating point", "c": "complex", "b": "one bit"}
_BYTES_PER_PIXEL, _COPIES = 32, 3
"""Peak memory for converting a page to grey or RGB, in addition to its samples; and copies of all frames: in the
worker, in transfer and in the server."""
_MAX_TILE_EXCESS = 4096 * 4096
"""Pixels by which a tile may exceed its image."""


def read_tiff(file: BinaryIO, *, limits: Limits) -> MedicalImage:
    """Read the pages of a TIFF as frames, each the right way up (tag Orientation).

    Grey values are preserved: fewer than 8 bits become uint8 from 0 to 255, 64-bit integers int32 if they fit, floats
    float32 without non-finite values. Palette, CMYK and other colour become 8-bit RGB with transparency black. Pages
    that are reduced versions or masks of other pages are skipped.

    Args:
        file: The open file, at its start.
        limits: Size limits; checked before decoding.

    Returns:
        The image, without geometry except for the pixel size, if ITK would read one. ``inverted`` if it has more than 8
        bits and zero is white.

    Raises:
        UnsupportedImageError: An unsupported compression or layout, whole-slide images, pages that differ.
        CorruptImageError: Truncated or damaged.
        ImageTooLargeError: Larger than ``limits``.
    """
    with corrupt_on_failure(_DAMAGED), TiffFile(file, name="image") as tiff:
        pages = _pages(tiff, limits)
        first = pages[0]
        limits.check(len(pages), first.imagelength, first.imagewidth)
        for page in pages:
            _check_layout(page)
            _check_segments(page)
        if len({(page.shaped, page.dtype, page.photometric) for page in pages}) > 1:
            sizes = ", ".join(sorted({f"{page.imagewidth} x {page.imagelength}" for page in pages}))
            raise UnsupportedImageError(
                f"the {len(pages)} pages of the TIFF image differ in size or in kind of pixel ({sizes}). Pages are "
                "read as frames, so send only pages that are alike"
            )
        frames = _frames(pages)
        inverted = first.photometric == PHOTOMETRIC.MINISWHITE and first.bitspersample > 8
        return MedicalImage(frames=frames, affine=_affine(first), file_format="TIFF", inverted=inverted)


def _frames(pages: Sequence[TiffPage]) -> np.ndarray:
    """Decode all pages to ``(K, rows, columns)`` or ``(K, rows, columns, 3)``, page by page."""
    first = pages[0]
    pixels = first.imagelength * first.imagewidth
    claim(pixels * (_BYTES_PER_PIXEL + first.samplesperpixel * (first.bitspersample + 7) // 8 * 2), pixels * len(pages))
    page = _upright(_pixels(first), first)
    claim(_COPIES * len(pages) * page.nbytes)
    frames = np.empty((len(pages), *page.shape), page.dtype)
    frames[0] = page
    for k, other in enumerate(pages[1:], 1):
        page = _upright(_pixels(other), other)
        common = np.result_type(frames, page)
        if common != frames.dtype:
            claim(_COPIES * frames.size * common.itemsize)
            frames = frames.astype(common)
        frames[k] = page
    return frames


def _affine(page: TiffPage) -> np.ndarray:
    """Return ITK's affine: 1 mm, or the page's resolution in dots per inch or centimetre."""
    length = {2: 25.4, 3: 10.0}.get(page.tags.valueof(_RESOLUTION_UNIT, 1))
    stated = (page.tags.valueof(tag, (0, 1)) for tag in (_X_RESOLUTION, _Y_RESOLUTION))
    density = [dots / lengths if lengths else 0.0 for dots, lengths in stated]
    return affine_of_pixels(length, density, is_turned=page.tags.valueof(_ORIENTATION, 1) > 4)


def _pages(tiff: TiffFile, limits: Limits) -> list[TiffPage]:
    """Return the pages that are images of their own; stops as soon as there are too many."""
    pages: list[TiffPage] = []
    for number, page in enumerate(tiff.pages):
        if number > 2 * limits.max_frames or len(pages) > limits.max_frames:
            raise ImageTooLargeError(f"the image has more frames than the limit of {limits.max_frames}")
        assert isinstance(page, TiffPage)  # TiffFrames are returned only on request
        is_reduced = page.tags.valueof(_NEW_SUBFILE_TYPE, 0) & _NOT_AN_IMAGE or page.tags.valueof(_SUBFILE_TYPE, 1) == 2
        if number == 0 or not is_reduced:
            pages.append(page)
    if len(pages) > limits.max_frames:
        raise ImageTooLargeError(f"the image has more frames than the limit of {limits.max_frames}")
    _check_kind_of_file(tiff, len(pages))
    return pages


def _check_kind_of_file(tiff: TiffFile, pages: int) -> None:
    """Refuse TIFF files whose pages are not separate images."""
    slide = next((name for flag, name in _WHOLE_SLIDES.items() if getattr(tiff, flag)), None)
    if slide:
        raise UnsupportedImageError(f"found: whole-slide image ({slide}). Send a region of it as a plain PNG or TIFF")
    stated = (tiff.imagej_metadata or {}).get("images", 1)
    is_truncated = any(one.get("truncated") for one in tiff.shaped_metadata or ())
    if stated > pages or is_truncated or tiff.is_stk:
        raise UnsupportedImageError(
            "the TIFF image holds several images in one page, as ImageJ and MetaMorph write them; save each as a page"
        )


def _check_layout(page: TiffPage) -> None:
    """Refuse unsupported compressions and pixel layouts; the message names them."""
    compression, photometric = page.compression, page.photometric
    if compression not in _COMPRESSIONS:
        raise UnsupportedImageError(
            f"TIFF compressed by {_name(COMPRESSION, compression)} is not supported; send uncompressed, LZW, Deflate, "
            "Zstandard, PackBits, CCITT, JPEG or JPEG 2000"
        )
    if photometric not in (*_GREY, *_COLOUR, PHOTOMETRIC.PALETTE):
        raise UnsupportedImageError(
            f"TIFF pixels of the kind {_name(PHOTOMETRIC, photometric)} are not supported; send grey, RGB, "
            "YCbCr, CMYK or palette"
        )
    colours = _COLOUR.get(photometric, 1)
    is_one_image = set(page.axes) <= set("YXS") and page.imagedepth == 1
    if page.samplesperpixel > colours + 1 or page.samplesperpixel < colours or not is_one_image:
        raise UnsupportedImageError(
            f"the TIFF image has {page.samplesperpixel} bands and {page.imagedepth} planes in one page; only grey "
            "and colour, also with transparency, are supported: send each band or plane as a separate page or file"
        )
    kind = page.dtype.kind if page.dtype is not None else "?"
    is_read = kind in "uifb" if colours == 1 and photometric != PHOTOMETRIC.PALETTE else kind in "ub"
    if not is_read or (page.samplesperpixel > 1 and page.bitspersample not in (8, 16)):
        raise UnsupportedImageError(
            f"TIFF pixels of {page.samplesperpixel} samples of {page.bitspersample} bits "
            f"({_KINDS.get(kind, 'of no kind')}) are not supported; send grey as whole numbers or floats, colour with "
            "8 or 16 bits"
        )
    if page.is_subsampled and compression not in _CODESTREAMS:
        raise UnsupportedImageError("subsampled YCbCr in TIFF is supported with JPEG compression only; send RGB")


def _check_segments(page: TiffPage) -> None:
    """Refuse missing strips or tiles, and those whose decoding would need more memory than the page."""
    tile = page.tilewidth * page.tilelength if page.is_tiled else 0
    if tile > page.imagewidth * page.imagelength + _MAX_TILE_EXCESS or page.tiledepth > 1:
        raise ImageTooLargeError("the tiles of the TIFF image are far larger than the image")
    if not page.databytecounts or 0 in page.databytecounts:
        raise CorruptImageError("parts of the TIFF image are missing")
    if page.compression not in _CODESTREAMS:
        return
    max_size = (page.tilelength, page.tilewidth) if page.is_tiled else (page.imagelength, page.imagewidth)
    for offset, length in zip(page.dataoffsets, page.databytecounts, strict=True):
        page.parent.filehandle.seek(offset)
        header = read_codestream(page.parent.filehandle.read(length))
        if header is None or header.rows > max_size[0] or header.columns > max_size[1]:
            raise CorruptImageError("the size of compressed data in the TIFF image contradicts its tags")


def _pixels(page: TiffPage) -> np.ndarray:
    """Decode one page as stored: ``(rows, columns)`` of numbers or ``(rows, columns, 3)`` uint8."""
    samples = page.asarray(maxworkers=1)
    if page.axes.startswith("S"):  # planes of one sample each
        samples = np.moveaxis(samples, 0, -1)
    if page.photometric == PHOTOMETRIC.PALETTE:
        return _palette_colours(samples if samples.ndim == 2 else samples[..., 0], page.colormap)
    count = _COLOUR.get(page.photometric, 1)
    colours = samples if samples.ndim == 2 else samples[..., :count]
    if page.samplesperpixel > count and page.extrasamples[:1] == (2,):  # alpha not yet multiplied in
        colours = blend_with_black(colours, samples[..., count])
    return _grey(colours.reshape(colours.shape[:2]), page) if count == 1 else _rgb(colours, page)


def _grey(values: np.ndarray, page: TiffPage) -> np.ndarray:
    bits = page.bitspersample
    if bits < 8:
        values = (values.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)
    if bits <= 8 and page.photometric == PHOTOMETRIC.MINISWHITE:
        values = np.invert(values)
    if values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return finite(np.ascontiguousarray(values, np.float32))
    if values.dtype.itemsize == 8:
        fits = np.iinfo(np.int32).min <= values.min() and values.max() <= np.iinfo(np.int32).max
        return values.astype(np.int32 if fits else np.float32)
    return values


def _rgb(samples: np.ndarray, page: TiffPage) -> np.ndarray:
    if samples.dtype.itemsize > 1:
        samples = (samples >> max(0, int(samples.max()).bit_length() - 8)).astype(np.uint8)
    is_ycbcr = page.photometric == PHOTOMETRIC.YCBCR and page.compression not in _CODESTREAMS
    mode = "CMYK" if page.photometric == PHOTOMETRIC.SEPARATED else "YCbCr" if is_ycbcr else "RGB"
    return np.asarray(Image.frombytes(mode, samples.shape[1::-1], samples.tobytes()).convert("RGB"))


def _palette_colours(indices: np.ndarray, colormap: np.ndarray | None) -> np.ndarray:
    """Look up palette colours and reduce 16 bits to 8, unless the writer has stored 8-bit values."""
    if colormap is None:
        raise CorruptImageError("the TIFF image has no palette")
    colours = colormap >> 8 if colormap.max() > 255 else colormap
    return np.ascontiguousarray(colours.T.astype(np.uint8)[indices])


def _upright(pixels: np.ndarray, page: TiffPage) -> np.ndarray:
    """Rotate and mirror the page according to its Orientation tag (TIFF 6.0)."""
    orientation = page.tags.valueof(_ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        pixels = np.swapaxes(pixels, 0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels


def _name(kind: type, value: int) -> str:
    """Return the name of a tag's value, or its number."""
    try:
        return str(kind(value).name)
    except ValueError:
        return f"number {value}"
