from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK
from highdicom.frame import encode_frame
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import JPEGBaseline8Bit, JPEGLSLossless, RLELossless

from lib.imaging.decoding.codestream import read_codestream
from lib.imaging.image import CorruptImageError, UnsupportedImageError
from lib.imaging.readers import read_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")


@pytest.mark.parametrize(
    ("compressed", "plain"),
    [
        ("MR_small_RLE.dcm", "MR_small.dcm"),
        ("MR_small_jp2klossless.dcm", "MR_small.dcm"),
        ("MR_small_jpeg_ls_lossless.dcm", "MR_small.dcm"),
        ("MR_small_bigendian.dcm", "MR_small.dcm"),
        ("MR_small_implicit.dcm", "MR_small.dcm"),
        ("MR_small_padded.dcm", "MR_small.dcm"),
        ("SC_rgb_small_odd_big_endian.dcm", "SC_rgb_small_odd.dcm"),
        ("SC_rgb_jpeg.dcm", "SC_rgb_jpeg_dcmd.dcm"),
        ("SC_rgb_jpeg_gdcm.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_gdcm_KY.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_rle_16bit.dcm", "SC_rgb_rle.dcm"),
        ("SC_rgb_rle_32bit.dcm", "SC_rgb_rle.dcm"),
        ("rtdose_rle.dcm", "rtdose.dcm"),
        ("rtdose_expb.dcm", "rtdose.dcm"),
        ("liver_expb_1frame.dcm", "liver_1frame.dcm"),
    ],
)
def test_lossless_twins_are_equal(sample: Callable[[str], Path], compressed: str, plain: str) -> None:
    one, other = read_image(sample(compressed)), read_image(sample(plain))
    assert one.frames.dtype == other.frames.dtype and one.frames.std() > 0
    np.testing.assert_array_equal(one.frames, other.frames)


@pytest.mark.parametrize(
    "name",
    [
        "SC_rgb_dcmtk_+eb+cr.dcm",
        "SC_rgb_dcmtk_+eb+cy+n1.dcm",
        "SC_rgb_dcmtk_+eb+cy+n2.dcm",
        "SC_rgb_dcmtk_+eb+cy+np.dcm",
        "SC_rgb_dcmtk_+eb+cy+s2.dcm",
        "SC_rgb_dcmtk_+eb+cy+s4.dcm",
        "SC_rgb_jpeg_dcmtk.dcm",
        "SC_rgb_jpeg_lossy_gdcm.dcm",
        "SC_ybr_full_422_uncompressed.dcm",
    ],
)
def test_every_colour_space_gives_the_same_rgb(sample: Callable[[str], Path], name: str) -> None:
    """The same colour bars as RGB and YBR with every subsampling: the middles of the bars must be equal."""
    found = read_image(sample(name)).frames[0].astype(int)
    expected = read_image(sample("SC_rgb_rle.dcm")).frames[0].astype(int)
    middles = np.s_[5:100:10, 20:80]
    assert np.abs(found[middles] - expected[middles]).max() <= 5
    assert len(np.unique(expected[middles].reshape(-1, 3), axis=0)) >= 8


@pytest.mark.parametrize(
    "name",
    [
        "693_J2KI.dcm",
        "J2K_pixelrep_mismatch.dcm",
        "JPEG2000.dcm",
        "JPEG-lossy.dcm",
        "JPGExtended.dcm",
        "CT_small.dcm",
        "GDCMJ2K_TextGBR.dcm",
        "SC_jpeg_no_color_transform.dcm",
        "SC_jpeg_no_color_transform_2.dcm",
        "SC_rgb_jpeg_app14_dcmd.dcm",
        "ExplVR_BigEnd.dcm",
        "image_dfl.dcm",
    ],
)
def test_values_are_those_of_itk(sample: Callable[[str], Path], name: str) -> None:
    reader = SimpleITK.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(sample(name)))
    expected = SimpleITK.GetArrayFromImage(reader.Execute())
    frames = read_image(sample(name)).frames
    np.testing.assert_array_equal(frames, expected.reshape(frames.shape))


def test_frames_of_a_multi_frame_keep_their_order(make_ct, save) -> None:
    stored = np.arange(4 * 5 * 6, dtype=np.uint16).reshape(4, 5, 6)
    dataset = make_ct(stored)
    np.testing.assert_array_equal(read_image(save(dataset)).frames, stored)
    dataset.compress(RLELossless)
    np.testing.assert_array_equal(read_image(save(dataset)).frames, stored)


def test_planar_configuration_1(make_ct, save) -> None:
    rgb = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    dataset = make_ct(rgb, PlanarConfiguration=1, PixelData=np.moveaxis(rgb, 2, 0).tobytes())
    np.testing.assert_array_equal(read_image(save(dataset)).frames[0], rgb)


def test_ybr_full(make_ct, save) -> None:
    ybr = np.array([[[76, 85, 255], [150, 44, 21], [29, 255, 107], [128, 128, 128]]], dtype=np.uint8)
    frames = read_image(save(make_ct(ybr, PhotometricInterpretation="YBR_FULL"))).frames
    expected = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [128, 128, 128]]
    np.testing.assert_allclose(frames[0, 0].astype(int), expected, atol=2)


@pytest.mark.parametrize("bits", [8, 16])
def test_palette_colour(make_ct, save, bits: int) -> None:
    step = 257 if bits == 16 else 1
    red, green, blue = (np.array(values) * step for values in ([0, 10, 20], [30, 40, 50], [255, 70, 80]))
    kind = "<u2" if bits == 16 else "u1"
    attributes = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, values in (("Red", red), ("Green", green), ("Blue", blue)):
        attributes[f"{name}PaletteColorLookupTableDescriptor"] = [3, 5, bits]
        data = values.astype(kind).tobytes()
        attributes[f"{name}PaletteColorLookupTableData"] = data + b"\x00" * (len(data) % 2)
    stored = np.array([[5, 6, 7, 0, 99, 6]], dtype=np.uint8)  # 5 is the first entry; values outside are clipped
    frames = read_image(save(make_ct(stored, **attributes))).frames
    expected = [[0, 30, 255], [10, 40, 70], [20, 50, 80], [0, 30, 255], [20, 50, 80], [10, 40, 70]]
    np.testing.assert_array_equal(frames[0, 0], expected)


def test_sign_is_extended_from_bits_stored(make_ct, save) -> None:
    values = np.array([[-2048, -1, 0, 2047]], dtype=np.int16)
    stored = (values.view(np.uint16) & 0x0FFF) | 0xA000  # an overlay lies in the upper bits
    dataset = make_ct(stored, BitsStored=12, HighBit=11, PixelRepresentation=1)
    frames = read_image(save(dataset)).frames
    assert frames.dtype == np.int16
    np.testing.assert_array_equal(frames[0], values)


def test_high_bit_above_bits_stored(make_ct, save) -> None:
    values = np.array([[0, 1, 2048, 4095]], dtype=np.uint16)
    dataset = make_ct((values << 4) | 0x000F, BitsStored=12, HighBit=15)
    np.testing.assert_array_equal(read_image(save(dataset)).frames[0], values)


def test_signed_12_bit_jpeg_ls(make_ct, save) -> None:
    values = np.resize(np.array([-2048, -1, 0, 2047, 5, -5, 700, -700, 3], dtype=np.int16), (32, 32))
    frame = encode_frame(
        values.view(np.uint16) & 0x0FFF,
        transfer_syntax_uid=JPEGLSLossless,
        bits_allocated=16,
        bits_stored=12,
        photometric_interpretation="MONOCHROME2",
    )
    dataset = make_ct(values, BitsStored=12, HighBit=11, PixelData=encapsulate([frame]))
    dataset.file_meta.TransferSyntaxUID = JPEGLSLossless
    dataset["PixelData"].is_undefined_length = True
    np.testing.assert_array_equal(read_image(save(dataset)).frames[0], values)


def test_monochrome1_is_marked_and_not_inverted(make_ct, save, gradient) -> None:
    image = read_image(save(make_ct(gradient, PhotometricInterpretation="MONOCHROME1")))
    assert image.inverted
    np.testing.assert_array_equal(image.frames[0], gradient)
    assert not read_image(save(make_ct(gradient))).inverted


def test_float_pixel_data(make_ct, save) -> None:
    values = np.array([[0.5, -1.25]], dtype=np.float32)
    dataset = make_ct(np.zeros((1, 2), np.uint32), PixelData=None, FloatPixelData=values.tobytes())
    for keyword in ("BitsStored", "HighBit", "PixelRepresentation"):
        delattr(dataset, keyword)
    np.testing.assert_array_equal(read_image(save(dataset)).frames[0], values)


def test_a_frame_larger_than_its_header_is_refused_before_decoding(sample, save) -> None:
    dataset = pydicom.dcmread(sample("MR_small_jp2klossless.dcm"))
    stream = bytearray(dataset.PixelData)
    at = stream.index(b"\xff\x4f\xff\x51")
    stream[at + 8 : at + 12] = (40_000).to_bytes(4, "big")
    dataset.PixelData = bytes(stream)
    with pytest.raises(CorruptImageError, match="contradicts"):
        read_image(save(dataset))


@pytest.mark.parametrize("name", ["MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm", "SC_rgb_jpeg_dcmtk.dcm"])
def test_other_header_sizes_than_the_frame_are_refused(sample, save, name: str) -> None:
    dataset = pydicom.dcmread(sample(name))
    dataset.Rows = dataset.Rows // 2
    with pytest.raises(CorruptImageError, match="contradicts"):
        read_image(save(dataset))


def test_codestream_headers(sample) -> None:
    found = {
        name: read_codestream(next(generate_frames(pydicom.dcmread(sample(name)).PixelData, number_of_frames=1)))
        for name in ("MR_small_jp2klossless.dcm", "JPGExtended.dcm", "SC_rgb_jpeg_gdcm.dcm")
    }
    assert found["MR_small_jp2klossless.dcm"][:4] == (64, 64, 1, 16)
    assert found["JPGExtended.dcm"][:4] == (1024, 256, 1, 12)
    assert found["SC_rgb_jpeg_gdcm.dcm"][:4] == (100, 100, 3, 8)
    assert read_codestream(b"\xff\xd8\xff\xda" + bytes(20)) is None
    assert read_codestream(b"nothing") is None


@pytest.mark.parametrize(
    ("attributes", "error", "reason"),
    [
        ({"PhotometricInterpretation": "HSV"}, UnsupportedImageError, "HSV"),
        ({"SamplesPerPixel": 3}, CorruptImageError, "3 samples"),
        ({"Rows": 6}, CorruptImageError, "truncated"),
        ({"Rows": None}, CorruptImageError, "Rows"),
        ({"Rows": 0}, CorruptImageError, "Rows"),
        ({"BitsAllocated": 12}, CorruptImageError, "damaged"),
        ({"PixelData": b""}, CorruptImageError, "damaged"),
        ({"PixelData": None}, CorruptImageError, "no pixel data"),
        ({"NumberOfFrames": 3}, CorruptImageError, "truncated"),
    ],
)
def test_contradictions_are_named(make_ct, save, gradient, attributes, error, reason) -> None:
    with pytest.raises(error, match=reason):
        read_image(save(make_ct(gradient, **attributes)))


def test_unread_transfer_syntax_is_named(make_ct, save, gradient) -> None:
    dataset = make_ct(gradient, PixelData=encapsulate([b"\x00\x00"]))
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.100"
    with pytest.raises(UnsupportedImageError, match="MPEG2"):
        read_image(save(dataset))


def test_missing_frames_are_noticed(make_ct, save, sample) -> None:
    source = pydicom.dcmread(sample("SC_rgb_jpeg_dcmtk.dcm"))
    source.NumberOfFrames = 2
    assert source.file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    with pytest.raises(CorruptImageError):
        read_image(save(source))
