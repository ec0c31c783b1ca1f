from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lib.imaging.palette import PALETTE, dicom_cielab
from lib.imaging.views import contour, decode_png, encode_png, overlay

IMAGE = np.full((9, 9, 3), 100, dtype=np.uint8)
SQUARE = np.zeros((9, 9), dtype=np.uint8)
SQUARE[1:8, 1:8] = 2


def test_palette_is_distinct_and_starts_with_okabe_and_itos_orange() -> None:
    assert len(np.unique(PALETTE, axis=0)) == 256
    assert PALETTE[0].tolist() == [0, 0, 0] and PALETTE[1].tolist() == [230, 159, 0]
    with pytest.raises(ValueError, match="read-only"):
        PALETTE[1] = 0


def test_overlay_mixes_inside_and_leaves_the_rest() -> None:
    view = overlay(IMAGE, SQUARE, alpha=0.25)
    np.testing.assert_array_equal(view[SQUARE == 0], IMAGE[SQUARE == 0])
    np.testing.assert_array_equal(view[4, 4], np.rint(0.75 * 100 + 0.25 * PALETTE[2].astype(float)))
    assert (IMAGE == 100).all()


@pytest.mark.parametrize(("alpha", "expected"), [(0.0, IMAGE[0, 0]), (1.0, PALETTE[2])])
def test_overlay_at_the_ends_of_alpha(alpha: float, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(overlay(IMAGE, SQUARE, alpha=alpha)[4, 4], expected)


def test_contour_is_inside_two_pixels_wide_and_open_in_the_middle() -> None:
    view = contour(IMAGE, SQUARE)
    changed = (view != IMAGE).any(axis=2)
    expected = np.zeros((9, 9), dtype=bool)
    expected[1:8, 1:8] = True
    expected[3:6, 3:6] = False
    np.testing.assert_array_equal(changed, expected)
    np.testing.assert_array_equal(view[1, 1:8], np.tile(PALETTE[2], (7, 1)))
    np.testing.assert_array_equal(view[2, 2:7], np.zeros((5, 3)))


def test_contour_closes_along_the_image_edge_and_between_objects() -> None:
    labels = np.ones((9, 9), dtype=np.uint8)
    labels[:, 5:] = 3
    view = contour(IMAGE, labels)
    np.testing.assert_array_equal(view[0, 0], PALETTE[1])
    np.testing.assert_array_equal(view[4, 4], PALETTE[1])
    np.testing.assert_array_equal(view[4, 5], PALETTE[3])


def test_contour_shows_a_single_pixel() -> None:
    labels = np.zeros((9, 9), dtype=np.uint8)
    labels[4, 4] = 1
    view = contour(IMAGE, labels)
    np.testing.assert_array_equal(view[4, 4], PALETTE[1])
    assert (view != IMAGE).any(axis=2).sum() == 1


NOISE = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "array",
    [SQUARE, np.dstack([SQUARE * 3, SQUARE, SQUARE]), NOISE, NOISE[:, ::-2, ::-1], NOISE[:, :1], NOISE[:1, :1, 0]],
    ids=["labels", "rgb", "noise", "not contiguous", "one column", "one pixel"],
)
def test_png_keeps_every_value(array: np.ndarray) -> None:
    decoded = Image.open(io.BytesIO(encode_png(array)))
    assert decoded.format == "PNG" and decoded.mode == ("L" if array.ndim == 2 else "RGB")
    np.testing.assert_array_equal(np.asarray(decoded), array)


@pytest.mark.parametrize("array", [SQUARE, NOISE], ids=["labels", "rgb"])
def test_a_png_of_ours_is_read_back_also_where_pillow_would_suspect_a_bomb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, array: np.ndarray
) -> None:
    path = tmp_path / "view.png"
    path.write_bytes(encode_png(array))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    read = decode_png(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    "call",
    [
        lambda: overlay(IMAGE, SQUARE[:5], alpha=0.5),
        lambda: overlay(IMAGE, SQUARE.astype(int), alpha=0.5),
        lambda: overlay(IMAGE[..., 0], SQUARE, alpha=0.5),
        lambda: overlay(IMAGE, SQUARE, alpha=1.5),
        lambda: contour(IMAGE.astype(float), SQUARE),
        lambda: encode_png(SQUARE.astype(np.uint16)),
        lambda: encode_png(np.zeros((2, 2, 4), np.uint8)),
        lambda: encode_png(np.zeros((0, 2), np.uint8)),
    ],
)
def test_misfits_are_refused(call) -> None:
    with pytest.raises(ValueError, match=r"must be|PNG view"):
        call()


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [((255, 255, 255), (100, 0, 0)), ((0, 0, 0), (0, 0, 0)), ((255, 0, 0), (54.29, 80.81, 69.89))],
)
def test_cielab_of_known_colours(rgb: tuple[int, int, int], lab: tuple[float, float, float]) -> None:
    lightness, a, b = dicom_cielab(np.array(rgb, np.uint8))
    found = (lightness * 100 / 65535, a * 255 / 65535 - 128, b * 255 / 65535 - 128)
    np.testing.assert_allclose(found, lab, atol=0.1)
