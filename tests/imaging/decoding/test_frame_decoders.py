"""Compressed frames, encoded here, are decoded bit for bit from a DICOM file; sizes read from their headers."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    JPEG2000MC,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from lib.imaging.decoding.codestream import read_codestream
from lib.imaging.decoding.frame_decoders import FRAME_DECODERS, JPEGXL, JPEGXLJPEGRecompression, JPEGXLLossless
from lib.imaging.dicom.pixel_data import _BY_PYDICOM
from lib.imaging.image import CorruptImageError
from lib.imaging.readers import read_image

ROOT = Path(__file__).resolve().parents[3]

jpeg_lossless = partial(imagecodecs.jpeg8_encode, lossless=True)
jpeg_2000 = partial(imagecodecs.jpeg2k_encode, level=0, codecformat="j2k", reversible=True)
jp2_file = partial(imagecodecs.jpeg2k_encode, level=0, codecformat="jp2", reversible=True)
htj2k = partial(imagecodecs.htj2k_encode, reversible=True)
jpeg_xl = partial(imagecodecs.jpegxl_encode, lossless=True)
jpeg_xl_file = partial(jpeg_xl, usecontainer=True)
jpeg_ls = imagecodecs.jpegls_encode

GREY = [
    *(
        (JPEGLossless, partial(jpeg_lossless, predictor=n, bitspersample=bits), bits)
        for n in (4, 7)
        for bits in (8, 16)
    ),
    *((JPEGLosslessSV1, partial(jpeg_lossless, predictor=1, bitspersample=n), n) for n in (8, 12, 14, 16)),
    *((syntax, jpeg_ls, bits) for syntax in (JPEGLSLossless, JPEGLSNearLossless) for bits in (8, 16)),
    *((syntax, jpeg_2000, bits) for syntax in (JPEG2000Lossless, JPEG2000) for bits in (8, 16, -16)),
    *((syntax, jpeg_2000, 16) for syntax in (JPEG2000MCLossless, JPEG2000MC)),
    (JPEG2000Lossless, jp2_file, 16),
    *((syntax, htj2k, bits) for syntax in (HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K) for bits in (8, 16, -16)),
    *((syntax, jpeg_xl, bits) for syntax in (JPEGXLLossless, JPEGXL) for bits in (8, 16)),
    (JPEGXLLossless, jpeg_xl_file, 16),
]
COLOUR = [
    (JPEGLosslessSV1, partial(jpeg_lossless, predictor=1), "RGB"),
    (JPEGLSLossless, jpeg_ls, "RGB"),
    (JPEG2000Lossless, jpeg_2000, "YBR_RCT"),
    (HTJ2KLossless, htj2k, "YBR_RCT"),
    (HTJ2KLosslessRPCL, htj2k, "YBR_RCT"),
    (HTJ2K, htj2k, "YBR_RCT"),
    (JPEGXLLossless, jpeg_xl, "RGB"),
    (JPEGXL, jpeg_xl_file, "RGB"),
]


def named(value: object) -> str | None:
    return value.keyword or value.rpartition(".")[2] if isinstance(value, UID) else None


@pytest.fixture
def read_back(make_ct, save) -> Callable[..., np.ndarray]:
    """Return a function that writes encoded frames to a DICOM file and reads it."""

    def read(
        frames: np.ndarray, syntax: UID, encode: Callable[[np.ndarray], bytes], **attributes: object
    ) -> np.ndarray:
        dataset = make_ct(frames, **attributes)
        dataset.PixelData = encapsulate([encode(frame) for frame in frames])
        dataset["PixelData"].VR = "OB"
        if syntax.is_transfer_syntax:
            dataset.file_meta.TransferSyntaxUID = syntax
            return read_image(save(dataset)).frames
        dataset.file_meta.TransferSyntaxUID = HTJ2KLossless  # pydicom writes no JPEG XL; its UIDs are as long
        path = save(dataset)
        path.write_bytes(path.read_bytes().replace(HTJ2KLossless.encode(), syntax.encode(), 1))
        return read_image(path).frames

    return read


def noise(bits: int, *shape: int) -> np.ndarray:
    """Return uniformly distributed values with this many bits; signed if ``bits`` is negative."""
    if bits < 0:
        return np.random.default_rng(bits + 99).integers(-(1 << -bits - 1), 1 << -bits - 1, shape).astype(np.int16)
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(bits).integers(0, 1 << bits, shape).astype(kind)


@pytest.mark.parametrize(("syntax", "encode", "bits"), GREY, ids=named)
def test_grey_frames_come_back_bit_for_bit(read_back, syntax, encode, bits):
    frames = noise(bits, 2, 33, 47)
    stored = abs(bits)
    found = read_back(frames, syntax, encode, BitsStored=stored, HighBit=stored - 1)
    assert frames.std() > 10
    np.testing.assert_array_equal(found, frames)


@pytest.mark.parametrize(("syntax", "encode", "photometric"), COLOUR, ids=named)
def test_colour_frames_come_back_bit_for_bit(read_back, syntax, encode, photometric):
    frames = noise(8, 2, 33, 47, 3)
    np.testing.assert_array_equal(read_back(frames, syntax, encode, PhotometricInterpretation=photometric), frames)


@pytest.mark.parametrize(("syntax", "bits"), [(JPEGBaseline8Bit, 8), (JPEGExtended12Bit, 8), (JPEGExtended12Bit, 12)])
def test_lossy_jpeg_comes_back_nearly(read_back, syntax, bits):
    frames = np.sort(noise(bits, 2, 33, 47))
    encode = partial(imagecodecs.jpeg8_encode, level=100, bitspersample=bits)
    found = read_back(frames, syntax, encode, BitsStored=bits, HighBit=bits - 1)
    assert np.abs(found.astype(int) - frames).max() <= 2


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "YBR_FULL_422"])
@pytest.mark.parametrize("in_boxes", [False, True])
def test_a_jpeg_recompressed_as_jpeg_xl_is_that_jpeg(read_back, photometric, in_boxes):
    """The decoders round differently after the inverse transform; the coefficients are the same."""
    shape = (1, 40, 56) if photometric == "MONOCHROME2" else (1, 40, 56, 3)
    smooth = np.sort(np.sort(noise(8, *shape), axis=1), axis=2)
    jpeg = partial(imagecodecs.jpeg8_encode, level=95)
    recompress = partial(imagecodecs.jpegxl_encode_jpeg, usecontainer=in_boxes)
    options = {"PhotometricInterpretation": photometric}
    as_jpeg = read_back(smooth, JPEGBaseline8Bit, jpeg, **options)
    as_jpeg_xl = read_back(smooth, JPEGXLJPEGRecompression, lambda frame: recompress(jpeg(frame)), **options)
    assert np.abs(as_jpeg.astype(int) - as_jpeg_xl).max() <= 3


SIDES = (1, 2, 7, 8, 9, 63, 64, 255, 256, 257, 264, 511, 512, 513, 8191, 8193)
SIZES = [(rows, columns) for rows in SIDES for columns in (1, 8, 64, 257, 512)]
# ISO/IEC 18181-1 stores a code for each of these ratios instead of the width.
SIZES += [
    (100, 100),
    (100, 120),
    (96, 128),
    (99, 132),
    (100, 150),
    (90, 160),
    (81, 144),
    (100, 125),
    (64, 80),
    (50, 100),
]


@pytest.mark.parametrize("encode", [jpeg_xl, jpeg_xl_file], ids=["bare", "in boxes"])
def test_the_size_in_a_jpeg_xl_header(encode):
    for rows, columns in SIZES:
        frame = encode(np.zeros((rows, columns), np.uint8), effort=1)
        assert read_codestream(frame)[:2] == (rows, columns)
        assert read_codestream(frame[:9]) is None


def test_a_jpeg_xl_signature_inside_another_box_is_none():
    frame = imagecodecs.jpegxl_encode(noise(8, 33, 47), lossless=True, usecontainer=True)
    text = b"\xff\x0a" + bytes(30)
    box = (8 + len(text)).to_bytes(4, "big") + b"xml " + text
    assert read_codestream(frame[:32] + box + frame[32:])[:2] == (33, 47)
    long_box = (1).to_bytes(4, "big") + b"xml " + (16 + len(text)).to_bytes(8, "big") + text
    assert read_codestream(frame[:32] + long_box + frame[32:])[:2] == (33, 47)
    assert read_codestream(frame[:32] + (3).to_bytes(4, "big") + b"xml " + frame[32:]) is None


@pytest.mark.parametrize(
    ("syntax", "encode"), [(HTJ2KLossless, htj2k), (JPEGXLLossless, jpeg_xl), (JPEGLSLossless, jpeg_ls)], ids=named
)
def test_a_frame_of_another_size_than_the_header_states_is_refused(read_back, syntax, encode):
    with pytest.raises(CorruptImageError, match="size of a compressed frame contradicts"):
        read_back(noise(16, 2, 33, 47), syntax, encode, Rows=34)


def test_the_table_in_the_docs_is_that_of_the_decoders():
    row = re.compile(r"^\| [^|]+ \| `([\d.]+)` \| ([^|]+) \|$", re.MULTILINE)
    listed = dict(row.findall((ROOT / "docs" / "dicom.md").read_text()))
    by_pydicom = {uid for uid, decoder in listed.items() if decoder == "pydicom"}
    assert by_pydicom == set(_BY_PYDICOM)
    compressed = {UID(uid): decoder for uid, decoder in listed.items() if uid not in by_pydicom}
    assert compressed.keys() == FRAME_DECODERS.keys()
    pairs = {(compressed[uid], FRAME_DECODERS[uid]) for uid in compressed}
    assert len(pairs) == len(set(compressed.values())) == len(set(FRAME_DECODERS.values()))
