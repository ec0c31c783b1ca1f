from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.imaging.image import CorruptImageError, ImageTooLargeError
from lib.imaging.readers import read_image

RGB = np.random.default_rng(1).integers(0, 256, (4, 6, 3)).astype(np.uint8)
GREY = np.arange(24, dtype=np.uint8).reshape(4, 6) * 10


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
@pytest.mark.parametrize("pixels", [GREY, RGB], ids=["grey", "rgb"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, kind: str, pixels: np.ndarray) -> None:
    path = tmp_path / "picture.dcm"  # the name lies; the content counts
    Image.fromarray(pixels).save(path, format=kind)
    image = read_image(path)
    assert (image.file_format, image.is_geometric, image.modality) == (kind, False, None)
    np.testing.assert_array_equal(image.frames, pixels[np.newaxis])
    np.testing.assert_array_equal(image.affine, np.eye(4))


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


def test_32_bit_tiff_keeps_floats_and_integers(tmp_path: Path) -> None:
    floats = np.array([[-1.5, np.nan], [np.inf, 3.25]], dtype=np.float32)
    Image.fromarray(floats).save(tmp_path / "f", format="TIFF")
    frames = read_image(tmp_path / "f").frames
    assert frames.dtype == np.float32
    np.testing.assert_array_equal(frames[0], [[-1.5, -1.5], [-1.5, 3.25]])
    integers = np.array([[-70000, 1], [2, 70000]], dtype=np.int32)
    Image.fromarray(integers).save(tmp_path / "i", format="TIFF")
    np.testing.assert_array_equal(read_image(tmp_path / "i").frames[0], integers)


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


@pytest.mark.parametrize(
    ("kind", "orientation", "undone"),
    [
        ("JPEG", 6, lambda a: np.rot90(a, -1)),
        ("JPEG", 3, lambda a: np.rot90(a, 2)),
        ("PNG", 8, lambda a: np.rot90(a, 1)),
        ("TIFF", 6, lambda a: np.rot90(a, -1)),
        ("TIFF", 2, lambda a: a[:, ::-1]),
    ],
)
def test_exif_orientation_is_applied_once(tmp_path: Path, kind: str, orientation: int, undone) -> None:
    picture = np.zeros((16, 32), dtype=np.uint8)
    picture[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100} if kind == "JPEG" else {}
    Image.fromarray(picture).save(tmp_path / "a", format=kind, exif=exif, **options)
    frame = read_image(tmp_path / "a").frames[0]
    assert frame.shape == undone(picture).shape
    assert np.abs(frame.astype(int) - undone(picture)).max() <= 2


def test_tiff_pages_are_frames_in_order(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY + page) for page in range(3)]
    pages[0].save(tmp_path / "a", format="TIFF", save_all=True, append_images=pages[1:])
    frames = read_image(tmp_path / "a").frames
    np.testing.assert_array_equal(frames, np.stack([GREY, GREY + 1, GREY + 2]))


def test_tiff_pages_of_different_size_are_refused(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY[:2])]
    pages[0].save(tmp_path / "a", format="TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(CorruptImageError, match="pages"):
        read_image(tmp_path / "a")


def test_deep_white_is_zero_tiff_is_inverted_and_shallow_one_is_not(tmp_path: Path) -> None:
    deep = (np.arange(24, dtype=np.uint16) * 2700).reshape(4, 6)
    Image.fromarray(deep).save(tmp_path / "deep", format="TIFF", tiffinfo={262: 0})
    image = read_image(tmp_path / "deep")
    assert image.inverted
    Image.fromarray(deep).save(tmp_path / "plain", format="TIFF")
    assert not read_image(tmp_path / "plain").inverted


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_truncated_files_are_corrupt(tmp_path: Path, kind: str) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a", format=kind)
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CorruptImageError, match=kind) as caught:
        read_image(tmp_path / "a")
    assert str(tmp_path) not in str(caught.value) and caught.value.__cause__ is not None


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "a", format="PNG")
    assert read_image(tmp_path / "a", max_pixels=10_000).frame_count == 1
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ImageTooLargeError, match="10000 pixels; at most 9999"):
        read_image(tmp_path / "a", max_pixels=9_999)


def test_all_pages_count(tmp_path: Path) -> None:
    pages = [Image.new("L", (10, 10))] * 3
    pages[0].save(tmp_path / "a", format="TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(ImageTooLargeError, match="300 pixels"):
        read_image(tmp_path / "a", max_pixels=299)


def test_pillows_own_limit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("L", (100, 100)).save(tmp_path / "a", format="PNG")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1_000)
    with pytest.raises(ImageTooLargeError):
        read_image(tmp_path / "a")
