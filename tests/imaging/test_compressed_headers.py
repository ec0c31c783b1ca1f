"""Combinations of DICOM headers and codestreams: any header with any compressed frame, complete or damaged."""

from __future__ import annotations

from collections import Counter

import imagecodecs
import numpy as np
import pytest
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGExtended12Bit, JPEGLosslessSV1, JPEGLSLossless

from lib.imaging.decoding.frame_decoders import FRAME_DECODERS, JPEGXLLossless
from lib.imaging.image import ImageError
from support.decoding import decode_pixels
from support.fuzzing import AMOUNTS, fuzz

ROWS, COLUMNS = 24, 20


def _frames() -> dict[str, bytes]:
    """Return a frame of each family, grey of 8 and 16 bits and RGB, if the encoder supports it."""
    rng = np.random.default_rng(5)
    shallow = rng.integers(0, 255, (ROWS, COLUMNS), np.uint8)
    deep = rng.integers(0, 4095, (ROWS, COLUMNS), np.uint16)
    colour = rng.integers(0, 255, (ROWS, COLUMNS, 3), np.uint8)
    jpeg_2000 = {"codecformat": "J2K", "reversible": True, "level": 0}
    made = {
        f"{name} {depth}": encode(values, **options)
        for depth, values in (("8", shallow), ("16", deep), ("RGB", colour))
        for name, encode, options in (
            ("JPEG-LS", imagecodecs.jpegls_encode, {}),
            ("JPEG 2000", imagecodecs.jpeg2k_encode, jpeg_2000),
            ("HTJ2K", imagecodecs.htj2k_encode, {"reversible": True}),
            ("JPEG XL", imagecodecs.jpegxl_encode, {"lossless": True}),
        )
    }
    made |= {"JPEG 8": imagecodecs.jpeg8_encode(shallow), "JPEG RGB": imagecodecs.jpeg8_encode(colour)}
    made |= {f"JPEG Lossless {bits}": imagecodecs.ljpeg_encode(deep, bitspersample=bits) for bits in (12, 14, 16)}
    return made | {
        "JPEG 12": imagecodecs.jpeg8_encode(deep, bitspersample=12),
        "nothing": b"\x00",
        "text": b"no image" * 9,
    }


FRAMES = _frames()
SYNTAXES = {
    "JPEG Lossless": JPEGLosslessSV1,
    "JPEG-LS": JPEGLSLossless,
    "JPEG 2000": JPEG2000Lossless,
    "JPEG XL": JPEGXLLossless,
    "HTJ2K": HTJ2KLossless,
    "JPEG": JPEGExtended12Bit,
}
OTHER_VALUES = {
    "BitsAllocated": (8, 16, 1, 32),
    "BitsStored": (1, 7, 8, 12, 16, 33),
    "HighBit": (0, 7, 11, 15, 32),
    "PixelRepresentation": (0, 1),
    "SamplesPerPixel": (1, 3),
    "PhotometricInterpretation": ("MONOCHROME1", "RGB", "YBR_FULL_422", "YBR_RCT", "PALETTE COLOR"),
    "PlanarConfiguration": (0, 1),
    "Rows": (ROWS - 1, 1, 65535),
    "Columns": (COLUMNS + 1, 1, 65535),
    "NumberOfFrames": (1, 2, 4000),
}
CHANGES = st.lists(
    st.sampled_from(sorted(OTHER_VALUES)).flatmap(
        lambda keyword: st.tuples(st.just(keyword), st.sampled_from(OTHER_VALUES[keyword]))
    ),
    max_size=3,
)


def header_for(name: str) -> dict[str, object]:
    """Return header values that match the frame."""
    bits = 8 if name.endswith((" 8", " RGB")) else 16
    return {
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": 0,
        "SamplesPerPixel": 3 if name.endswith("RGB") else 1,
        "PhotometricInterpretation": "RGB" if name.endswith("RGB") else "MONOCHROME2",
        "PlanarConfiguration": 0,
        "Rows": ROWS,
        "Columns": COLUMNS,
        "NumberOfFrames": 1,
    }


PATCHES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=4)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_any_header_with_any_codestream(amount) -> None:
    outcomes: Counter[str] = Counter()

    @fuzz(
        amount(400),
        CHANGES,
        st.sampled_from(sorted(FRAMES)),
        st.sampled_from((*(None,) * 20, *FRAME_DECODERS)),
        PATCHES,
        st.floats(0.7, 1.5).map(lambda share: min(share, 1.0)),
    )
    def decode(changes, name, syntax, patches, share) -> None:
        header = header_for(name) | dict(changes)
        family = next((syntax for family, syntax in SYNTAXES.items() if name.startswith(family)), JPEG2000Lossless)
        frame = bytearray(FRAMES[name])
        for where, patch in patches:
            at = int(where * len(frame))
            frame[at : at + len(patch)] = patch
        dataset = Dataset()
        for keyword, value in header.items():
            setattr(dataset, keyword, value)
        dataset.PixelData = encapsulate(
            [bytes(frame[: int(share * len(frame)) or 1])] * min(header["NumberOfFrames"], 2)
        )
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax or family
        try:
            values = decode_pixels(dataset)
        except ImageError as error:
            outcomes[type(error).__name__] += 1
        else:
            assert values.shape[:3] == (header["NumberOfFrames"], header["Rows"], header["Columns"])
            outcomes["decoded"] += 1

    decode()
    print(dict(outcomes))
    assert outcomes["decoded"] > 0 < outcomes["CorruptImageError"]
