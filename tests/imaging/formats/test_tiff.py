"""TIFF variants of scanners, microscopes and programs; errors name unsupported ones, and bombs are refused."""

from __future__ import annotations

import io
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from lib.imaging.decoding import isolation
from lib.imaging.image import CorruptImageError, ImageError, ImageTooLargeError, MedicalImage, UnsupportedImageError
from lib.imaging.limits import Limits
from lib.imaging.readers import read_image

GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10
RAMP = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
DEEP = RAMP.astype(np.uint16) * 200
COLOUR = np.stack([RAMP, RAMP // 2, 255 - RAMP], axis=-1)


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    """Return a TIFF of any kind, written by tifffile."""
    buffer = io.BytesIO()
    options = {"photometric": "minisblack", "metadata": None, **options}
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def read(tmp_path: Path, content: bytes, **limits: int) -> MedicalImage:
    (tmp_path / "upload").write_bytes(content)
    return read_image(tmp_path / "upload", **limits)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd", "packbits", "jpeg2000"])
@pytest.mark.parametrize("values", [RAMP, DEEP], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("tile", [None, (16, 32)], ids=["strips", "tiles"])
def test_every_number_is_kept(tmp_path, values, compression, tile):
    image = read(tmp_path, tiff(values, compression=compression, tile=tile))
    assert (image.file_format, image.frames.dtype, image.is_geometric) == ("TIFF", values.dtype, False)
    np.testing.assert_array_equal(image.frames[0], values)


@pytest.mark.parametrize("options", [{"bigtiff": True}, {"byteorder": ">"}, {"compression": "lzw", "predictor": True}])
def test_so_it_is_in_other_layouts(tmp_path, options):
    np.testing.assert_array_equal(read(tmp_path, tiff(DEEP, **options)).frames[0], DEEP)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_become_float32(tmp_path, dtype):
    values = (DEEP / 100).astype(dtype)
    values[0, 0] = np.nan
    frames = read(tmp_path, tiff(values)).frames
    assert frames.dtype == np.float32 and frames[0, 0, 0] == 0
    np.testing.assert_allclose(frames[0, 1:], values[1:], rtol=1e-6)


@pytest.mark.parametrize(("factor", "dtype"), [(1, np.int32), (10**9, np.float32)])
def test_64_bits_become_what_holds_them(tmp_path, factor, dtype):
    frames = read(tmp_path, tiff(DEEP.astype(np.int64) * factor)).frames
    assert frames.dtype == dtype
    np.testing.assert_allclose(frames[0], DEEP.astype(float) * factor, rtol=1e-6)


@pytest.mark.parametrize("compression", ["raw", "group3", "group4", "tiff_lzw"])
def test_one_bit_becomes_0_and_255(tmp_path, compression):
    Image.fromarray(RAMP > 100).save(tmp_path / "a", format="TIFF", compression=compression)
    np.testing.assert_array_equal(read_image(tmp_path / "a").frames[0], (RAMP > 100) * 255)


@pytest.mark.parametrize(
    "content",
    [
        tiff(COLOUR, photometric="rgb"),
        tiff(np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate"),
        tiff(COLOUR.astype(np.uint16) * 257, photometric="rgb"),
        tiff(COLOUR, photometric="rgb", compression="jpeg2000"),
        tiff(np.dstack([COLOUR, RAMP * 0 + 255]), photometric="rgb", extrasamples=["unassalpha"]),
        tiff(np.dstack([COLOUR, RAMP]), photometric="rgb", extrasamples=["unspecified"]),
        tiff(np.dstack([255 - COLOUR, RAMP * 0]), photometric="separated"),
    ],
    ids=["contiguous", "planes", "16 bits", "JPEG 2000", "opaque", "a band of no meaning", "CMYK"],
)
def test_colour_is_rgb(tmp_path, content):
    np.testing.assert_array_equal(read(tmp_path, content).frames[0], COLOUR)


@pytest.mark.parametrize("mode", ["RGB", "YCbCr"])
def test_what_is_stored_as_ycbcr_is_rgb(tmp_path, mode):
    options = {"compression": "jpeg", "quality": 95} if mode == "RGB" else {}
    Image.fromarray(COLOUR).convert(mode).save(tmp_path / "a", format="TIFF", **options)
    assert np.abs(read_image(tmp_path / "a").frames[0].astype(int) - COLOUR).max() < 8


def test_transparent_is_black(tmp_path):
    frames = read(tmp_path, tiff(np.dstack([COLOUR, RAMP]), photometric="rgb", extrasamples=["unassalpha"])).frames
    np.testing.assert_allclose(frames[0], COLOUR * (RAMP[..., None] / 252), atol=1)
    grey = np.dstack([DEEP, DEEP * 0])
    grey[:, :30, 1] = 65535
    frames = read(tmp_path, tiff(grey, planarconfig="contig", extrasamples=["unassalpha"])).frames
    np.testing.assert_array_equal(frames[0], np.where(np.arange(64) < 30, DEEP, 0))


@pytest.mark.parametrize("scale", [1, 256], ids=["8 bits in a palette of 16", "16 bits"])
def test_a_palette_is_looked_up(tmp_path, scale):
    colours = np.random.default_rng(0).integers(0, 256, (3, 256))
    frames = read(tmp_path, tiff(RAMP, photometric="palette", colormap=(colours * scale).astype(np.uint16))).frames
    np.testing.assert_array_equal(frames[0], colours.T[RAMP])


def test_reduced_versions_of_pages_are_left_out(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a") as writer:
        for page in (RAMP, RAMP + 1):
            writer.write(page, metadata=None)
            writer.write(page[::2, ::2], subfiletype=1, metadata=None)
            writer.write(page > 9, subfiletype=4, photometric="mask", metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a").frames, [RAMP, RAMP + 1])


def test_a_pyramid_in_subifds_is_its_largest_image(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a") as writer:
        writer.write(RAMP, subifds=1, metadata=None)
        writer.write(RAMP[::2, ::2], subfiletype=1, metadata=None)
    np.testing.assert_array_equal(read_image(tmp_path / "a").frames, [RAMP])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (tiff(RAMP, compression="lzma"), "compressed by LZMA"),
        (tiff(RAMP, compression="jpegxl"), "compressed by JPEGXL"),
        (tiff(RAMP.astype(complex)), "complex"),
        (tiff(np.zeros((8, 9, 7), np.uint8), planarconfig="contig"), "7 bands and 1 planes"),
        (tiff(np.zeros((16, 16, 16), np.uint8), volumetric=True, tile=(16, 16, 16)), "1 bands and 16 planes"),
        (tiff(COLOUR.astype(np.float32), photometric="rgb"), "3 samples of 32 bits .floating point."),
        (tiff(RAMP, photometric="cfa"), "CFA"),
        (tiff(RAMP, tile=(16, 16), description="Aperio Image Library v10\r\n1x1 |MPP = 0.5"), "whole-slide.*Aperio"),
        (tiff(np.stack([RAMP] * 5), truncate=True, metadata={}), "several images in one page"),
    ],
)
def test_what_is_not_read_is_named_and_not_called_damaged(tmp_path, content, said):
    with pytest.raises(UnsupportedImageError, match=said) as refused:
        read(tmp_path, content)
    assert "damaged" not in str(refused.value)


def test_a_whole_slide_is_called_so_before_its_size_is(tmp_path):
    content = tiff(RAMP, tile=(16, 16), description="Aperio Image Library v10\r\n1x1 |MPP = 0.5")
    with pytest.raises(UnsupportedImageError, match="whole-slide"):
        read(tmp_path, content, limits=Limits(max_pixels=10))


def with_strip(content: bytes, strip: bytes) -> bytes:
    """Return a TIFF with its single strip replaced by another one."""
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        places = [file.pages[0].tags[tag].valueoffset for tag in (273, 279)]
    changed = bytearray(content)
    for place, value in zip(places, (len(content), len(strip)), strict=True):
        changed[place : place + 4] = value.to_bytes(4, "little")
    return bytes(changed) + strip


@pytest.mark.parametrize(
    "content",
    [
        with_strip(tiff(RAMP, compression="zlib"), zlib.compress(bytes(10**8))),
        with_strip(tiff(RAMP, compression="jpeg"), imagecodecs.jpeg8_encode(np.zeros((9000, 9000), np.uint8))),
        with_strip(tiff(RAMP, compression="jpeg2000"), imagecodecs.jpeg2k_encode(np.zeros((2000, 2000), np.uint8))),
        with_strip(tiff(RAMP), b"too short"),
        with_strip(tiff(RAMP), b""),
        with_strip(tiff(RAMP, compression="lzw"), b"no LZW"),
        tiff(RAMP)[:900],
    ],
    ids=["Deflate bomb", "JPEG bomb", "JPEG 2000 bomb", "short", "missing", "no LZW", "half"],
)
def test_damaged_files_and_bombs(tmp_path, content):
    with pytest.raises(CorruptImageError):
        read(tmp_path, content)


def test_tiles_that_are_far_larger_than_the_image(tmp_path):
    content = bytearray(tiff(RAMP, tile=(16, 16)))
    with tifffile.TiffFile(io.BytesIO(bytes(content))) as file:
        for tag in (322, 323):
            place = file.pages[0].tags[tag].valueoffset
            content[place : place + 2] = (60000).to_bytes(2, "little")
    with pytest.raises(ImageTooLargeError, match="tiles"):
        read(tmp_path, bytes(content))


def test_any_bytes_changed_are_an_image_or_an_image_error(tmp_path):
    random = np.random.default_rng(3)
    for content in (tiff(RAMP), tiff(DEEP, compression="lzw", tile=(16, 16)), tiff(COLOUR, photometric="rgb")):
        for _ in range(150):
            changed = bytearray(content)
            for place in random.integers(0, len(content), 3):
                changed[place] = random.integers(256)
            with suppress(ImageError):
                read(tmp_path, bytes(changed), limits=Limits(max_pixels=10**6))


def test_32_bit_tiff_keeps_floats_and_integers(tmp_path: Path) -> None:
    floats = np.array([[-1.5, np.nan], [np.inf, 3.25]], dtype=np.float32)
    Image.fromarray(floats).save(tmp_path / "f", format="TIFF")
    frames = read_image(tmp_path / "f").frames
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames[0], [[-1.5, -1.5], [-1.5, 3.25]])
    integers = np.array([[-70000, 1], [2, 70000]], dtype=np.int32)
    Image.fromarray(integers).save(tmp_path / "i", format="TIFF")
    np.testing.assert_array_equal(read_image(tmp_path / "i").frames[0], integers)


def test_tiff_pages_are_frames_in_order(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY + page) for page in range(3)]
    pages[0].save(tmp_path / "a", format="TIFF", save_all=True, append_images=pages[1:])
    frames = read_image(tmp_path / "a").frames
    np.testing.assert_array_equal(frames, np.stack([GREY, GREY + 1, GREY + 2]))


def test_tiff_pages_of_different_size_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY[:2])]
    pages[0].save(tmp_path / "a", format="TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(UnsupportedImageError, match=r"2 pages of the TIFF image differ .*6 x 2, 6 x 4"):
        read_image(tmp_path / "a")


def test_deep_white_is_zero_tiff_is_inverted_and_shallow_one_is_not(tmp_path: Path) -> None:
    deep = (np.arange(24, dtype=np.uint16) * 2700).reshape(4, 6)
    Image.fromarray(deep).save(tmp_path / "deep", format="TIFF", tiffinfo={262: 0})
    image = read_image(tmp_path / "deep")
    assert image.inverted
    Image.fromarray(deep).save(tmp_path / "plain", format="TIFF")
    assert not read_image(tmp_path / "plain").inverted


@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_signed_tiff_stays_signed(tmp_path: Path, dtype: type) -> None:
    values = np.array([[-100, -1, 0], [1, 2, 100]], dtype)
    (tmp_path / "a").write_bytes(tiff(values))
    frames = read_image(tmp_path / "a").frames
    assert frames.dtype.kind == "i"
    np.testing.assert_array_equal(frames[0], values)


def test_shallow_white_is_zero_is_undone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tiff(GREY, photometric="miniswhite"))
    image = read_image(tmp_path / "a")
    assert not image.inverted
    np.testing.assert_array_equal(image.frames[0], 255 - GREY)


def test_all_pages_count(tmp_path: Path) -> None:
    pages = [Image.new("L", (10, 10))] * 3
    pages[0].save(tmp_path / "a", format="TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageTooLargeError, match="300 pixels"):
        read_image(tmp_path / "a", limits=Limits(max_pixels=299))


def test_a_tiff_of_too_many_pages_is_refused_without_walking_them_all(tmp_path: Path, monkeypatch) -> None:
    with tifffile.TiffWriter(tmp_path / "a") as writer:
        for _ in range(40):
            writer.write(GREY, metadata=None)
    assert read_image(tmp_path / "a", limits=Limits(max_frames=40)).frame_count == 40
    walked = []
    monkeypatch.setattr(isolation, "_is_worker", True)  # run in this process, where the replacement applies
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda self, **_: pytest.fail("decoded"))
    begin = tifffile.TiffPage.__init__
    monkeypatch.setattr(tifffile.TiffPage, "__init__", lambda *a, **k: (walked.append(1), begin(*a, **k))[1])
    with pytest.raises(ImageTooLargeError, match="more frames than the limit of 5"):
        read_image(tmp_path / "a", limits=Limits(max_frames=5))
    assert 0 < len(walked) < 20
