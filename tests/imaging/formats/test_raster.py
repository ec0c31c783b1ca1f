from __future__ import annotations

import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import SimpleITK
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from lib.imaging.formats.raster import read_raster
from lib.imaging.image import CorruptImageError, ImageTooLargeError, UnsupportedImageError
from lib.imaging.limits import Limits
from lib.imaging.readers import read_image

RGB = np.random.default_rng(1).integers(0, 256, (4, 6, 3)).astype(np.uint8)
GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, kind: str, pixels: np.ndarray) -> None:
    path = tmp_path / "picture.dcm"  # the name is wrong; only the content matters
    Image.fromarray(pixels).save(path, format=kind)
    image = read_image(path)
    assert (image.file_format, image.is_geometric, image.modality) == (kind, False, None)
    np.testing.assert_array_equal(image.frames, pixels[np.newaxis])
    np.testing.assert_array_equal(image.affine, np.diag([-1, -1, 1, 1]))  # as in ITK


def test_jpeg_is_close_and_grey_stays_grey(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    Image.fromarray(ramp).save(tmp_path / "a", format="JPEG", quality=95)
    image = read_image(tmp_path / "a")
    assert image.frames.shape == (1, 64, 64) and image.frames.dtype == np.uint8
    assert np.abs(image.frames[0].astype(int) - ramp).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_depth(tmp_path: Path, kind: str) -> None:
    deep = (np.arange(24, dtype=np.uint16) * 2700).reshape(4, 6)
    Image.fromarray(deep).save(tmp_path / "a", format=kind)
    frames = read_image(tmp_path / "a").frames
    assert frames.dtype == np.uint16
    np.testing.assert_array_equal(frames[0], deep)


def test_one_bit_becomes_0_and_255(tmp_path: Path) -> None:
    bits = np.eye(9, dtype=bool)
    Image.fromarray(bits).save(tmp_path / "a", format="PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "a").frames[0], bits * 255)


def test_palette_becomes_the_colours_it_stands_for(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 2))
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.putdata([0, 1, 2, 1])
    picture.save(tmp_path / "a", format="PNG")
    expected = [[[10, 20, 30], [40, 50, 60]], [[70, 80, 90], [40, 50, 60]]]
    np.testing.assert_array_equal(read_image(tmp_path / "a").frames[0], expected)


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a", format="JPEG", quality=100)
    frames = read_image(tmp_path / "a").frames
    assert frames.shape == (1, 8, 8, 3)
    assert np.abs(frames[0, 0, 0].astype(int) - (255, 0, 0)).max() <= 8


def test_transparency_is_composed_on_black(tmp_path: Path) -> None:
    layered = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 50, 128]]], dtype=np.uint8)
    Image.fromarray(layered).save(tmp_path / "a", format="PNG")
    np.testing.assert_allclose(
        read_image(tmp_path / "a").frames[0, 0], [[200, 100, 50], [0, 0, 0], [100, 50, 25]], atol=1
    )
    Image.fromarray(layered[..., [0, 3]]).save(tmp_path / "la", format="PNG")
    grey = read_image(tmp_path / "la").frames
    assert grey.shape == (1, 1, 3)
    np.testing.assert_allclose(grey[0, 0], [200, 0, 100], atol=1)


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: np.rot90(a, 2),
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: lambda a: np.rot90(a, 1),
}
"""How each EXIF orientation (TIFF 6.0, tag 274) transforms the stored pixels for display."""


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied_once(tmp_path: Path, kind: str, orientation: int) -> None:
    picture = np.zeros((16, 32), dtype=np.uint8)
    picture[:8, :8] = 255
    picture[8:, :8] = 120
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind == "JPEG" else {}
    Image.fromarray(picture).save(tmp_path / "a", format=kind, exif=exif, **options)
    frame = read_image(tmp_path / "a").frames[0]
    shown = UPRIGHT[orientation](picture)
    assert frame.shape == shown.shape
    assert np.abs(frame.astype(int) - shown).max() <= 2


def png(bits: int, colour_type: int, samples: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of any kind, even if Pillow cannot write it; ``samples`` is ``(rows, columns x channels)``."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour_type]
    rows, columns = samples.shape[0], samples.shape[1] // channels
    header = struct.pack(">IIBBBBB", columns, rows, bits, colour_type, 0, 0, 0)
    lines = b"".join(b"\0" + row.astype(">u2" if bits == 16 else "u1").tobytes() for row in samples)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def test_16_bit_colour_becomes_its_upper_8_bits(tmp_path: Path) -> None:
    deep = (np.arange(18) * 3600).astype(np.uint16).reshape(2, 9)
    expected = (deep >> 8).reshape(2, 3, 3)
    (tmp_path / "a").write_bytes(png(16, 2, deep))
    np.testing.assert_array_equal(read_image(tmp_path / "a").frames[0], expected)


def test_16_bit_transparency_is_composed_on_black(tmp_path: Path) -> None:
    grey = np.array([[65535, 65535, 40000, 0], [40000, 32768, 0, 65535]])
    (tmp_path / "la").write_bytes(png(16, 4, grey))
    frame = read_image(tmp_path / "la").frames[0]
    np.testing.assert_array_equal(frame, np.array([[65535, 0], [20000, 0]], np.uint16))
    colour = np.array([[65535, 0, 25600, 65535, 65535, 0, 25600, 0]])
    (tmp_path / "rgba").write_bytes(png(16, 6, colour))
    np.testing.assert_allclose(read_image(tmp_path / "rgba").frames[0], [[[255, 0, 100], [0, 0, 0]]], atol=1)


@pytest.mark.parametrize("bits", [8, 16])
def test_the_transparent_grey_of_a_png_is_black(tmp_path: Path, bits: int) -> None:
    grey = np.array([[0, 50, 100], [150, 50, 250]])
    (tmp_path / "a").write_bytes(png(bits, 0, grey, (b"tRNS", struct.pack(">H", 50))))
    np.testing.assert_array_equal(read_image(tmp_path / "a").frames[0], [[0, 0, 100], [150, 0, 250]])


def test_transparent_colours_of_a_palette_are_composed_on_black(tmp_path: Path) -> None:
    colours = bytes([200, 10, 10, 20, 200, 20, 30, 30, 200])
    alpha = bytes([255, 128, 0])
    (tmp_path / "a").write_bytes(png(8, 3, np.array([[0, 1, 2]]), (b"PLTE", colours), (b"tRNS", alpha)))
    np.testing.assert_allclose(
        read_image(tmp_path / "a").frames[0, 0], [[200, 10, 10], [10, 100, 10], [0, 0, 0]], atol=1
    )


@pytest.mark.parametrize("colours", [RGB, GREY], ids=["rgb", "grey"])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_nothing_but_its_end_is_read(tmp_path: Path, colours: np.ndarray, progressive: bool) -> None:
    Image.fromarray(colours).resize((80, 64)).save(tmp_path / "a", format="JPEG", progressive=progressive)
    whole, expected = (tmp_path / "a").read_bytes(), read_image(tmp_path / "a").frames
    (tmp_path / "a").write_bytes(whole[:-2])
    np.testing.assert_array_equal(read_image(tmp_path / "a").frames, expected)
    (tmp_path / "a").write_bytes(whole[:-40])
    with pytest.raises(CorruptImageError):
        read_image(tmp_path / "a")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_truncated_files_are_corrupt(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a", format=kind)
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptImageError, match=kind) as caught:
        read_image(tmp_path / "a")
    assert str(tmp_path) not in str(caught.value) and caught.value.__notes__[0].startswith("caused by")


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "a", format="PNG")
    assert read_image(tmp_path / "a", limits=Limits(max_pixels=10_000)).frame_count == 1
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageTooLargeError, match="10000 pixels; at most 9999"), (tmp_path / "a").open("rb") as file:
        read_raster(file, "PNG", limits=Limits(9_999, 1))


def test_pillows_own_limit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "a", format="PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(ImageTooLargeError), (tmp_path / "a").open("rb") as file:
        read_raster(file, "PNG", limits=Limits(20_000, 1))


@pytest.mark.parametrize("unit", [None, 0, 1, 2, 3])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
@pytest.mark.parametrize("density", [(100, 200), (0, 0)])
def test_pixels_are_as_large_as_in_itk(tmp_path: Path, kind: str, unit: int | None, density: tuple[int, int]) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    directory = ImageFileDirectory_v2()
    directory[282], directory[283] = float(density[0]), float(density[1])
    if unit is not None:
        directory[296] = unit
    dots = (254, 127) if unit == 1 and kind != "JPEG" else None
    options = {"tiffinfo": directory} if kind == "TIFF" else {"dpi": dots} if dots else {}
    Image.fromarray(np.arange(20, dtype=np.uint8).reshape(4, 5)).save(path, kind, **options)
    if kind == "JPEG":
        content = bytearray(path.read_bytes())
        start = content.index(b"JFIF\0")
        content[start + 7 : start + 12] = struct.pack(">BHH", unit or 0, *density)
        path.write_bytes(content)
    expected, image = SimpleITK.ReadImage(str(path)), read_image(path)
    assert not image.is_geometric
    for corner in ((0, 0), (4, 0), (0, 3), (4, 3)):
        ras = image.affine @ (*corner, 0, 1)
        np.testing.assert_allclose(ras[:2] * -1, expected.TransformIndexToPhysicalPoint(corner), atol=1e-6)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (imagecodecs.jpeg8_encode(GREY.astype(np.uint16), bitspersample=12), "of 12 bits"),
        (imagecodecs.jpeg8_encode(GREY, lossless=True), "lossless"),
    ],
)
def test_what_no_browser_shows_either_is_named(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(UnsupportedImageError, match=f"JPEG image, {found}"):
        read_image(tmp_path / "a")
