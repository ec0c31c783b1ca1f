"""Missing Image Pixel attributes are derived, or the error names them."""

from __future__ import annotations

import imagecodecs
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from lib.imaging.dicom.pixel_attributes import complete_pixel_attributes
from lib.imaging.image import CorruptImageError
from lib.imaging.readers import read_image

rng = np.random.default_rng(3)
GREY_8 = rng.integers(0, 256, (6, 10), dtype=np.uint8)
GREY_16 = rng.integers(0, 65536, (6, 10), dtype=np.uint16)
COLOUR = rng.integers(0, 256, (6, 10, 3), dtype=np.uint8)
OPTIONAL = (
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
)
EVERY = [*((name,) for name in OPTIONAL), OPTIONAL]


def without(dataset: Dataset, names: tuple[str, ...], how: str = "absent") -> Dataset:
    for name in names:
        if name in dataset and how == "absent":
            delattr(dataset, name)
        elif name in dataset:
            dataset[name].value = None
    return dataset


@pytest.mark.parametrize("how", ["absent", "empty"])
@pytest.mark.parametrize("names", EVERY, ids="+".join)
@pytest.mark.parametrize("stored", [GREY_8, GREY_16, COLOUR], ids=["grey 8", "grey 16", "colour"])
def test_uncompressed(make_ct, save, stored, names, how) -> None:
    frames = read_image(save(without(make_ct(stored), names, how))).frames
    np.testing.assert_array_equal(frames[0], stored)


@pytest.mark.parametrize("names", EVERY, ids="+".join)
@pytest.mark.parametrize(
    ("syntax", "encode", "stored"),
    [
        (JPEGLosslessSV1, lambda values: imagecodecs.ljpeg_encode(values), GREY_16),
        (JPEGLSLossless, imagecodecs.jpegls_encode, GREY_8),
        (JPEGLSLossless, imagecodecs.jpegls_encode, COLOUR),
        (JPEG2000Lossless, lambda values: imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k"), GREY_16),
        (JPEG2000Lossless, lambda values: imagecodecs.jpeg2k_encode(values, level=0, codecformat="j2k"), COLOUR),
    ],
    ids=["JPEG lossless", "JPEG-LS grey", "JPEG-LS colour", "JPEG 2000 grey", "JPEG 2000 colour"],
)
def test_compressed(make_ct, save, syntax, encode, stored, names) -> None:
    dataset = make_ct(stored)
    dataset.PixelData = encapsulate([encode(stored)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = syntax
    frames = read_image(save(without(dataset, names))).frames
    np.testing.assert_array_equal(frames[0], stored)


@pytest.mark.parametrize("names", EVERY, ids="+".join)
@pytest.mark.parametrize("stored", [GREY_8, GREY_16, COLOUR], ids=["grey 8", "grey 16", "colour"])
def test_rle(make_ct, save, stored, names) -> None:
    dataset = make_ct(stored)
    dataset.compress(RLELossless, generate_instance_uid=False)
    frames = read_image(save(without(dataset, names))).frames
    np.testing.assert_array_equal(frames[0], stored)


def test_colour_jpeg_without_words_is_ycbcr(make_ct, save) -> None:
    smooth = np.linspace((250, 20, 10), (20, 240, 60), 60).reshape(6, 10, 3).astype(np.uint8)
    dataset = make_ct(smooth)
    dataset.PixelData = encapsulate([imagecodecs.jpeg8_encode(smooth, level=98)])
    dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    frames = read_image(save(without(dataset, OPTIONAL))).frames
    assert np.abs(frames[0].astype(int) - smooth).max() < 30


@pytest.mark.parametrize(
    ("name", "vr", "value"),
    [
        ("BitsAllocated", "LO", "16"),
        ("BitsStored", "IS", "16"),
        ("HighBit", "US", [15, 15]),
        ("BitsStored", "US", [16, 16, 16]),
        ("SamplesPerPixel", "DS", "1.0"),
        ("PixelRepresentation", "LO", " 0 "),
        ("PhotometricInterpretation", "LO", "monochrome2"),
        ("BitsStored", "US", 20),
    ],
)
def test_a_value_in_another_form_is_read(make_ct, save, name, vr, value) -> None:
    dataset = make_ct(GREY_16)
    dataset.add_new(name, vr, value)
    np.testing.assert_array_equal(read_image(save(dataset)).frames[0], GREY_16)


@pytest.mark.parametrize(
    ("name", "vr", "value"),
    [
        ("BitsAllocated", "LO", "many"),
        ("BitsAllocated", "US", 0),
        ("BitsStored", "US", 0),
        ("BitsStored", "US", [16, 12]),
        ("PixelRepresentation", "US", 2),
        ("HighBit", "DS", "1.5"),
        ("SamplesPerPixel", "LO", "one"),
        ("Rows", "LO", "x"),
    ],
)
def test_an_impossible_value_is_named(make_ct, save, name, vr, value) -> None:
    dataset = make_ct(GREY_16)
    dataset.add_new(name, vr, value)
    with pytest.raises(CorruptImageError, match=name):
        read_image(save(dataset))


def test_what_does_not_follow_is_asked_for(make_ct, save) -> None:
    dataset = without(make_ct(GREY_16), OPTIONAL)
    dataset.PixelData = dataset.PixelData[:-30]
    with pytest.raises(CorruptImageError, match="SamplesPerPixel and PhotometricInterpretation"):
        read_image(save(dataset))
    dataset = without(make_ct(GREY_16), ("BitsAllocated",))
    dataset.PixelData = dataset.PixelData[:-30]
    with pytest.raises(CorruptImageError, match="BitsAllocated"):
        read_image(save(dataset))


def test_values_stated_as_signed_say_that_pixels_are(make_ct, save) -> None:
    stored = np.array([[-1000, 40]], np.int16)
    dataset = without(make_ct(stored), ("PixelRepresentation",))
    dataset.add_new("PixelPaddingValue", "SS", -2000)
    np.testing.assert_array_equal(read_image(save(dataset)).frames[0], stored)


def test_a_palette_is_known_by_its_tables(make_ct, save) -> None:
    dataset = without(make_ct(np.array([[0, 1, 2]], np.uint8)), ("PhotometricInterpretation", "SamplesPerPixel"))
    for colour, entries in (
        ("Red", b"\x00\x10\x20\x00"),
        ("Green", b"\x01\x11\x21\x00"),
        ("Blue", b"\x02\x12\x22\x00"),
    ):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [4, 0, 8])
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", entries)
    frames = read_image(save(dataset)).frames
    np.testing.assert_array_equal(frames[0, 0], [[0, 1, 2], [16, 17, 18], [32, 33, 34]])


def test_a_complete_header_stays_as_it_is(make_ct) -> None:
    for stored in (GREY_8, GREY_16, COLOUR):
        dataset = make_ct(stored)
        before = dataset.to_json()
        complete_pixel_attributes(dataset)
        assert dataset.to_json() == before


def test_implicit_vr(make_ct, save) -> None:
    dataset = without(make_ct(GREY_16), ("BitsStored", "HighBit", "PixelRepresentation"))
    dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    np.testing.assert_array_equal(read_image(save(dataset)).frames[0], GREY_16)
