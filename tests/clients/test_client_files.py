"""What the Python client sends and reads, by other programs' understanding of it."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
import SimpleITK
from PIL import Image

from lib.imaging.views import encode_png
from lib.server.rest.schemas import SAMInput
from lib.server.upstream.viewer_params import ViewerParams, read_params
from sam_app_client import Lasso, Scribble, Volume, nrrd, png, version
from sam_app_client.files import image_file, mask_file
from sam_app_client.prompts import sam_input, viewer_params

NOISE = np.random.default_rng(1)


def pictures() -> list[np.ndarray]:
    smooth = (np.add.outer(np.arange(31) ** 2, np.arange(47) * 3) // 9).astype(np.uint8)
    return [
        smooth,
        NOISE.integers(0, 256, (9, 5), np.uint8),
        NOISE.integers(0, 256, (4, 7, 3), np.uint8),
        np.stack([smooth, smooth.T[:31, :47] if smooth.T.shape == smooth.shape else smooth[::-1], smooth + 5], axis=-1),
        np.zeros((1, 1), np.uint8),
    ]


@pytest.mark.parametrize("array", pictures())
def test_png_as_pillow_and_the_server_write_and_read_it(array):
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png.encode(array)))), array)
    assert np.array_equal(png.decode(encode_png(array)), array)
    by_pillow = io.BytesIO()
    Image.fromarray(array).save(by_pillow, "PNG")
    assert np.array_equal(png.decode(by_pillow.getvalue()), array)


@pytest.mark.parametrize("channels", [1, 3])
def test_every_filter_of_png(channels):
    """Whatever the stored bytes are, Pillow knows which pixels they mean."""
    rows, columns = 25, 12
    lines = NOISE.integers(0, 256, (rows, 1 + columns * channels), np.uint8)
    lines[:, 0] = np.arange(rows) % 5
    shape = (rows, columns) if channels == 1 else (rows, columns, 3)
    plain = png.encode(np.zeros(shape, np.uint8))
    head = plain[: plain.index(b"IDAT") - 4]
    data = zlib.compress(lines.tobytes())
    content = head + b"".join(png._chunk(name, part) for name, part in ((b"IDAT", data), (b"IEND", b"")))
    assert np.array_equal(png.decode(content), np.asarray(Image.open(io.BytesIO(content))))


def test_no_png_or_another_kind_is_refused():
    sixteen, whole = io.BytesIO(), png.encode(np.ones((4, 4), np.uint8))
    Image.fromarray(np.ones((4, 4), np.uint16)).save(sixteen, "PNG")
    for content in (b"", b"GIF89a", sixteen.getvalue(), whole[:20], whole[:45]):
        with pytest.raises(ValueError, match="PNG"):
            png.decode(content)


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int16", ">u2", "int32", "uint32", "float32", "float64"])
def test_nrrd_as_itk_reads_it(dtype, tmp_path):
    array = (NOISE.random((3, 4, 5)) * 100).astype(dtype)
    affine = np.array([[0, -1.5, 0, 40], [2, 0, 0.5, 30], [0, 0, 3, -20], [0, 0, 0, 1]])
    (tmp_path / "image.nrrd").write_bytes(nrrd.encode(array, affine))
    image = SimpleITK.ReadImage(str(tmp_path / "image.nrrd"))
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), array)
    i, j, k = 4, 2, 1
    assert np.allclose(
        image.TransformIndexToPhysicalPoint((i, j, k)) * np.array([-1, -1, 1]), (affine @ [i, j, k, 1])[:3]
    )
    voxels, place = nrrd.decode(nrrd.encode(array, affine))
    assert np.array_equal(voxels, array) and np.allclose(place, affine)


def test_what_is_no_image_is_refused(tmp_path):
    for array in (np.zeros(3, np.uint8), np.zeros((2, 2, 2, 2)), np.zeros((0, 4), np.uint8)):
        with pytest.raises(ValueError, match="an array is"):
            image_file(array)
    for wrong in (np.zeros((2, 2), complex), np.zeros((2, 2), np.int64), 5, None):
        with pytest.raises(TypeError):
            image_file(wrong)
    with pytest.raises(TypeError, match="a mask is of bool or whole numbers"):
        mask_file(np.zeros((2, 2)), "mask")
    with pytest.raises(FileNotFoundError):
        image_file(tmp_path / "none.png")


def test_prompts_are_in_the_server_s_words():
    drawn = {"scribbles": [Scribble([(1, 2), (3, 4)], 5, False)], "lassos": [Lasso([(1, 1), (9, 1), (9, 9)])]}
    sent = sam_input({"points": [(1, 2)], "negative_points": [], "boxes": [(9, 8, 2, 3)], "window": (40, 400), **drawn})
    read = SAMInput.model_validate(sent)
    [rectangle] = read.rectangles
    assert (rectangle.startX, rectangle.startY, rectangle.width, rectangle.height) == (9, 8, -7, -5)
    assert (
        read.window.center == 40
        and read.scribbles[0].xy.tolist() == [[1, 2], [3, 4]]
        and not read.scribbles[0].positive
    )
    assert read.counts() == {"rectangles": 1, "positive_points": 1, "negative_points": 0, "scribbles": 1, "lassos": 1}

    told = viewer_params(
        {"points": [(1, 2, 3)], "box": (9, 8, 7, 1, 2, 7), "window": "lung", "label": "x", "start": b""}
    )
    params = read_params(ViewerParams, told)
    assert params.foreground == ((1, 2, 3),) and params.roi == (9, 1, 8, 2, 7, 7) and params.window == "lung"
    assert params.start_from_label and not params.protect
    for wrong in ({"points": [(1, 2, 3)]}, {"boxes": [(1, 2)]}, {"window": (1,)}):
        with pytest.raises(ValueError, match="numbers"):
            sam_input(wrong)


def test_a_corrected_mask_keeps_its_place_and_must_fit():
    volume = Volume(np.zeros((2, 3, 4), np.uint8), np.diag([1.0, 1, 2, 1]))
    mask = np.ones((2, 3, 4), bool)
    assert volume.with_mask(mask).millilitres == pytest.approx(0.048) and volume.areas == {}
    for wrong in (mask[:1], mask.astype(float), mask.astype(np.int16) * 300, -mask.astype(np.int8)):
        with pytest.raises(ValueError, match="the mask must be"):
            volume.with_mask(wrong)


@pytest.mark.parametrize(
    ("client", "server", "expected"),
    [
        ("0.2.0", "0.2.7", True),
        ("0.2.0", "0.3.0", False),
        ("0.2.0", "1.2.0", False),
        ("1.0.0", "1.4.2", True),
        ("1.0.0", "2.0.0", False),
        ("0.2.0", "0.20.0", False),
        ("0.2.0", "0", False),
    ],
)
def test_which_versions_fit(monkeypatch, client, server, expected):
    monkeypatch.setattr(version, "VERSION", client)
    assert version.fits(server) is expected
