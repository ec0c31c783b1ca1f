"""A compressed image that lacks only its end marker is read; one that lacks some of its pixels is refused."""

from __future__ import annotations

import struct
import warnings

import imagecodecs
import numpy as np
import pydicom
import pytest
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from lib.imaging.decoding.frame_decoders import JPEGXLLossless
from lib.imaging.dicom.data_sets import read_dataset
from lib.imaging.image import CorruptImageError
from support.decoding import decode_pixels

DELIMITER = b"\xfe\xff\xdd\xe0"


def waves(bits: int) -> np.ndarray:
    rows, columns = np.mgrid[:64, :80]
    noise = np.random.default_rng(0).uniform(0, 0.1, rows.shape)
    values = (np.sin(columns / 7) + np.cos(rows / 5)) / 5 + 0.45 + noise
    return (values * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)


STREAMS = {
    "JPEG": (JPEGBaseline8Bit, 8, imagecodecs.jpeg8_encode(waves(8))),
    "JPEG, 12 bits": (JPEGExtended12Bit, 12, imagecodecs.jpeg8_encode(waves(12), bitspersample=12)),
    "JPEG Lossless": (JPEGLosslessSV1, 12, imagecodecs.ljpeg_encode(waves(12), bitspersample=12)),
    "JPEG-LS": (JPEGLSLossless, 16, imagecodecs.jpegls_encode(waves(16))),
    "JPEG 2000": (
        JPEG2000Lossless,
        16,
        imagecodecs.jpeg2k_encode(waves(16), codecformat="J2K", reversible=True, level=0),
    ),
    "HTJ2K": (HTJ2KLossless, 16, imagecodecs.htj2k_encode(waves(16), reversible=True)),
}
each = pytest.mark.parametrize("kind", STREAMS)


def decoded(make_ct, kind: str, frame: bytes) -> np.ndarray:
    syntax, bits, _ = STREAMS[kind]
    dataset = make_ct(waves(bits), BitsStored=bits, HighBit=bits - 1, PixelData=encapsulate([frame]))
    dataset.file_meta.TransferSyntaxUID = syntax
    return decode_pixels(dataset)[0]


@each
def test_a_missing_end_marker_makes_no_difference(make_ct, kind: str) -> None:
    whole = STREAMS[kind][2]
    assert whole.endswith(b"\xff\xd9")
    expected = decoded(make_ct, kind, whole)
    if "JPEG," not in kind and kind != "JPEG":
        np.testing.assert_array_equal(expected, waves(STREAMS[kind][1]))
    for unterminated in (whole[:-2], whole[:-2] + b"\x00", whole + b"\x00"):
        np.testing.assert_array_equal(decoded(make_ct, kind, unterminated), expected)


@each
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.97])
def test_a_truncated_stream_is_refused(make_ct, kind: str, share: float) -> None:
    whole = STREAMS[kind][2]
    with pytest.raises(CorruptImageError):
        decoded(make_ct, kind, whole[: int(len(whole) * share)])


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_truncated_jpeg_xl_is_refused(make_ct, share: float) -> None:
    whole = imagecodecs.jpegxl_encode(waves(16), lossless=True)
    dataset = make_ct(waves(16), PixelData=encapsulate([whole[: int(len(whole) * share)]]))
    dataset.file_meta.TransferSyntaxUID = JPEGXLLossless
    with pytest.raises(CorruptImageError):
        decode_pixels(dataset)


@pytest.mark.parametrize("bits", [2, 6, 7, 8, 10, 12, 16])
def test_jpeg_ls_of_any_depth_is_read(make_ct, bits: int) -> None:
    values = waves(bits)
    frame = bytearray(imagecodecs.jpegls_encode(values))
    size = frame.index(b"\xff\xf7")
    dataset = make_ct(values, BitsStored=bits, HighBit=bits - 1, BitsAllocated=8 if bits <= 8 else 16)
    if bits in (8, 16):
        dataset.PixelData = encapsulate([bytes(frame)])
        dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
        np.testing.assert_array_equal(decode_pixels(dataset)[0], values)
    assert frame[size + 4] == (8 if bits <= 8 else 16)  # this encoder supports no others; pydicom's does
    packed = pydicom.pixels.encoders.JPEGLSLosslessEncoder.encode(
        values.tobytes(),
        rows=64,
        columns=80,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=dataset.BitsAllocated,
        bits_stored=bits,
        pixel_representation=0,
        number_of_frames=1,
    )
    dataset.PixelData = encapsulate([packed])
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    np.testing.assert_array_equal(decode_pixels(dataset)[0], values)


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "JPGExtended.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_the_delimiter_of_the_fragments_may_be_missing(sample, name: str) -> None:
    content = sample(name).read_bytes()
    end = content.rindex(DELIMITER)
    expected = decode_pixels(read_dataset(content))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom says that the file ends too early
        for unterminated in (content[:end], content[: end + 4], content[: end + 8]):
            np.testing.assert_array_equal(decode_pixels(read_dataset(unterminated)), expected)
        for truncated in (content[: end - 20], content[: end - 60], content[: end * 2 // 3]):
            with pytest.raises(CorruptImageError):
                decode_pixels(read_dataset(truncated))


def test_samples_of_more_bits_than_the_header_allocates_are_refused(make_ct) -> None:
    values = waves(8)
    dataset = make_ct(values, PixelData=encapsulate([imagecodecs.jpegls_encode(waves(16))]))
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    assert dataset.BitsAllocated == 8
    with pytest.raises(CorruptImageError, match="have 16 bits, Bits Allocated is 8"):
        decode_pixels(dataset)


def test_what_a_frame_holds_above_bits_stored_is_not_cut_off(make_ct) -> None:
    values = waves(16)
    dataset = make_ct(values, BitsStored=12, HighBit=11, PixelData=encapsulate([imagecodecs.jpegls_encode(values)]))
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    np.testing.assert_array_equal(decode_pixels(dataset)[0], values)


@pytest.mark.parametrize("bits_stored", range(1, 9))
def test_jpeg_lossless_whose_bits_stored_are_not_those_allocated(make_ct, bits_stored: int) -> None:
    """GDCM crashes on such a file."""
    values = waves(8) >> (8 - bits_stored)
    dataset = make_ct(values, BitsStored=bits_stored, HighBit=bits_stored - 1)
    dataset.PixelData = encapsulate([_lossless_jpeg(values)])
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1
    np.testing.assert_array_equal(decode_pixels(dataset)[0], values)


def _lossless_jpeg(values: np.ndarray) -> bytes:
    """ITU-T T.81 process 14, predictor 1, 8 bits; each of the 17 categories of differences has a code of 5 bits."""
    signed = values.astype(int)
    before = np.empty_like(signed)
    before[:, 1:], before[1:, 0], before[0, 0] = signed[:, :-1], signed[:-1, 0], 128
    bits = ""
    for difference in (signed - before).ravel().tolist():
        length = abs(difference).bit_length()
        bits += f"{length:05b}"
        bits += f"{difference if difference > 0 else difference + 2**length - 1:0{length}b}" if length else ""
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")

    def segment(marker: int, body: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body

    return b"".join(
        (
            b"\xff\xd8",
            segment(0xC4, bytes((0, 0, 0, 0, 0, 17, *([0] * 11), *range(17)))),
            segment(0xC3, struct.pack(">BHHB", 8, *values.shape, 1) + b"\x01\x11\x00"),
            segment(0xDA, b"\x01\x01\x00\x01\x00\x00"),
            scan,
            b"\xff\xd9",
        )
    )
