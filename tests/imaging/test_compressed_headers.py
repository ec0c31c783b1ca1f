"""DICOM headers x codestreams: any header may come with any compressed frame, whole or damaged."""

from __future__ import annotations

from collections import Counter

import imagecodecs
import numpy as np
import pytest
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate

from lib.imaging.dicom_pixels import decode_pixels
from lib.imaging.frame_decoders import FRAME_DECODERS
from lib.imaging.image import ImageError
from support.fuzzing import AMOUNTS, fuzz

ROWS, COLUMNS = 24, 20


def _frames() -> dict[str, bytes]:
    """A frame of each family, grey of 8 and 16 bits and RGB, as far as the encoder goes."""
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
    return made | {"JPEG 12": imagecodecs.jpeg8_encode(deep, bitspersample=12), "nothing": b"\x00", "text": b"no image" * 9}


FRAMES = _frames()
HEADERS = st.fixed_dictionaries(
    {
        "BitsAllocated": st.sampled_from((8, 16, 16, 1, 32)),
        "BitsStored": st.integers(1, 33),
        "HighBit": st.integers(0, 32),
        "PixelRepresentation": st.sampled_from((0, 0, 1)),
        "SamplesPerPixel": st.sampled_from((1, 1, 3)),
        "PhotometricInterpretation": st.sampled_from(
            ("MONOCHROME2", "MONOCHROME1", "RGB", "YBR_FULL_422", "YBR_RCT", "PALETTE COLOR")
        ),
        "PlanarConfiguration": st.sampled_from((0, 1)),
        "Rows": st.sampled_from((ROWS, ROWS, ROWS, ROWS - 1, 1, 65535)),
        "Columns": st.sampled_from((COLUMNS, COLUMNS, COLUMNS, COLUMNS + 1)),
        "NumberOfFrames": st.sampled_from((1, 1, 1, 2)),
    }
)
PATCHES = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)), max_size=4)


@pytest.mark.parametrize("amount", AMOUNTS)
def test_any_header_with_any_codestream(amount) -> None:
    outcomes: Counter[str] = Counter()

    @fuzz(
        amount(400),
        HEADERS,
        st.sampled_from(sorted(FRAMES)),
        st.sampled_from(sorted(FRAME_DECODERS)),
        PATCHES,
        st.floats(0.5, 1.5).map(lambda share: min(share, 1.0)),
    )
    def decode(header, name, syntax, patches, share) -> None:
        frame = bytearray(FRAMES[name])
        for where, patch in patches:
            at = int(where * len(frame))
            frame[at : at + len(patch)] = patch
        dataset = Dataset()
        for keyword, value in header.items():
            setattr(dataset, keyword, value)
        dataset.PixelData = encapsulate([bytes(frame[: int(share * len(frame)) or 1])] * header["NumberOfFrames"])
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
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
