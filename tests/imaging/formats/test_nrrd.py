from __future__ import annotations

import binascii
import bz2
import gzip
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK

from lib.imaging.image import CorruptImageError, ImageTooLargeError, UnsupportedImageError
from lib.imaging.labels.label_writers import write_label_volume
from lib.imaging.limits import Limits
from lib.imaging.readers import read_image

KJI = np.arange(24, dtype=np.int16).reshape(2, 3, 4)


def save(tmp_path: Path, array: np.ndarray = KJI, is_vector: bool = False) -> Path:
    image = SimpleITK.GetImageFromArray(array, isVector=is_vector)
    image.SetSpacing((0.5, 0.8, 2.5)[: image.GetDimension()])
    image.SetOrigin((10, -20, 30)[: image.GetDimension()])
    if image.GetDimension() == 3:
        image.SetDirection((0, -1, 0, 1, 0, 0, 0, 0, 1))
    SimpleITK.WriteImage(image, str(tmp_path / "a.nrrd"), useCompression=True)
    return (tmp_path / "a.nrrd").rename(tmp_path / "upload")


def test_voxels_and_places(tmp_path: Path) -> None:
    path = save(tmp_path)
    image = read_image(path)
    assert image.file_format == "NRRD" and image.is_geometric and image.frames.dtype == np.int16
    np.testing.assert_array_equal(image.frames, KJI)
    np.testing.assert_allclose(image.affine, [[0, 0.8, 0, -10], [-0.5, 0, 0, 20], [0, 0, 2.5, 30], [0, 0, 0, 1]])


def test_ras_space_written_by_others(tmp_path: Path) -> None:
    header = {
        "space": "right-anterior-superior",
        "space directions": np.diag([0.5, 0.8, 2.5]),
        "space origin": [1, 2, 3],
    }
    nrrd.write(str(tmp_path / "a.nrrd"), KJI.T, header)
    affine = read_image(tmp_path / "a.nrrd").affine
    np.testing.assert_allclose(affine, [[0.5, 0, 0, 1], [0, 0.8, 0, 2], [0, 0, 2.5, 3], [0, 0, 0, 1]])


def test_2d_and_colour(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_image(save(tmp_path, KJI[0])).frames, KJI[:1])
    rgb = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    np.testing.assert_array_equal(read_image(save(tmp_path, rgb, is_vector=True)).frames[0], rgb)


def test_floats_become_finite(tmp_path: Path) -> None:
    values = KJI.astype(np.float64)
    values[0, 0, 0] = np.nan
    frames = read_image(save(tmp_path, values)).frames
    assert frames.dtype == np.float32 and frames[0, 0, 0] == 1 and frames[1, 2, 3] == 23


@pytest.mark.parametrize("field", ["data file: secret.raw", "DATAFILE: secret.raw", "data file: LIST"])
def test_a_header_that_names_another_file_is_refused(tmp_path: Path, field: str) -> None:
    (tmp_path / "secret.raw").write_bytes(bytes(24))
    lines = ["NRRD0004", "type: uint8", "dimension: 3", "sizes: 4 3 2", "encoding: raw", field]
    (tmp_path / "a.nrrd").write_text("\n".join(lines) + "\n\n")
    with pytest.raises(UnsupportedImageError, match="another file"):
        read_image(tmp_path / "a.nrrd")


HEADER = [
    *("type: int16", "dimension: 3", "sizes: 4 3 2", "endian: little", "space: left-posterior-superior"),
    *("space directions: (0.5,0,0) (0,0.8,0) (0,0,2.5)", "space origin: (1,2,3)"),
]


def written(tmp_path: Path, data: bytes, *fields: str, header: list[str] = HEADER) -> Path:
    (tmp_path / "upload").write_bytes("\n".join(["NRRD0005", *header, *fields]).encode() + b"\n\n" + data)
    return tmp_path / "upload"


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [
        ("raw", bytes),
        ("gzip", gzip.compress),
        ("bzip2", bz2.compress),
        ("bz2", bz2.compress),
        ("hex", binascii.hexlify),
        ("ascii", lambda data: " ".join(map(str, np.frombuffer(data, "<i2"))).encode()),
    ],
)
def test_every_encoding(tmp_path: Path, encoding: str, encode) -> None:
    image = read_image(written(tmp_path, encode(KJI.astype("<i2").tobytes()), f"encoding: {encoding}"))
    np.testing.assert_array_equal(image.frames, KJI)
    np.testing.assert_allclose(image.affine @ (1, 1, 1, 1), (-1.5, -2.8, 5.5, 1))


def test_an_encoding_that_nobody_knows_is_not_damaged(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedImageError, match="unknown encoding; raw, gzip, bzip2"):
        read_image(written(tmp_path, b"", "encoding: zstd"))


def test_a_bzip2_bomb_is_bounded_by_the_header(tmp_path: Path) -> None:
    path = written(tmp_path, bz2.compress(bytes(10**8)), "encoding: bzip2")
    assert not read_image(path).frames.any()
    with pytest.raises(CorruptImageError):
        read_image(written(tmp_path, bz2.compress(bytes(10)), "encoding: bzip2"))


def test_comments_keys_and_voxels_name_no_file(tmp_path: Path) -> None:
    said = ["# data file: of the patient", "data file:=none", "a key:=data file: secret.raw", "encoding: raw"]
    voxels = b"data file: secret.raw".ljust(48, b"\n")
    assert read_image(written(tmp_path, voxels, *said)).frames.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("sizes", "directions"),
    [
        ("4 3 2 1", "(0.5,0,0) (0,0.8,0) (0,0,2.5) none"),
        ("1 4 3 2", "none (0.5,0,0) (0,0.8,0) (0,0,2.5)"),
    ],
)
def test_a_fourth_axis_of_length_1_is_left_out(tmp_path: Path, sizes: str, directions: str) -> None:
    header = ["type: int16", "dimension: 4", f"sizes: {sizes}", "endian: little", HEADER[4], HEADER[6]]
    header += [f"space directions: {directions}", "encoding: raw"]
    image = read_image(written(tmp_path, KJI.astype("<i2").tobytes(), header=header))
    np.testing.assert_array_equal(image.frames, KJI)
    np.testing.assert_allclose(image.affine @ (1, 1, 1, 1), (-1.5, -2.8, 5.5, 1))


def test_so_it_is_without_a_space(tmp_path: Path) -> None:
    header = ["type: int16", "dimension: 4", "sizes: 4 3 2 1", "endian: little", "spacings: 0.5 0.8 2.5 1"]
    image = read_image(written(tmp_path, KJI.astype("<i2").tobytes(), "encoding: raw", header=header))
    np.testing.assert_array_equal(image.frames, KJI)
    assert not image.is_geometric


def test_four_dimensions_are_refused(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), np.zeros((2, 3, 4, 5), np.uint8))
    with pytest.raises(UnsupportedImageError, match="2 x 3 x 4 x 5"):
        read_image(tmp_path / "a.nrrd")


def test_truncated_or_without_end(tmp_path: Path) -> None:
    path = save(tmp_path, np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16))
    content = path.read_bytes()
    path.write_bytes(content[:-300])
    with pytest.raises(CorruptImageError):
        read_image(path)
    path.write_bytes(b"NRRD0004\ntype: uint8\n")
    with pytest.raises(CorruptImageError, match="end of header"):
        read_image(path)


def test_limit(tmp_path: Path) -> None:
    with pytest.raises(ImageTooLargeError, match="24 pixels"):
        read_image(save(tmp_path), limits=Limits(max_pixels=23))


def headers() -> dict[str, list[str]]:
    """Return NRRD headers with every kind of geometry, by name."""
    straight = ["space directions: (0.5,0,0) (0,0.8,0) (0,0,2.5)", "space origin: (10.5,-20,30)"]
    made = {
        f"space {space}": [f"space: {space}", *straight]
        for space in (
            *("left-posterior-superior", "LPS", "right-anterior-superior", "RAS", "left-anterior-superior", "LAS"),
            *("scanner-xyz", "3D-right-handed", "3D-left-handed"),
        )
    }
    made |= {
        "oblique": [
            "space: left-posterior-superior",
            "space directions: (0.4,0.3,0) (-0.48,0.64,0) (0,0,-2.5)",
            "space origin: (1,2,3)",
        ],
        "sheared": [
            "space: left-posterior-superior",
            "space directions: (0.5,0,0) (0,0.8,0) (0,0.4,2.5)",
            "space origin: (1,2,3)",
        ],
        "axes in another order": [
            "space: right-anterior-superior",
            "space directions: (0,0.5,0) (0,0,-0.8) (-2.5,0,0)",
            "space origin: (1,2,3)",
        ],
        "space dimension": ["space dimension: 3", *straight],
        "no origin": ["space: left-posterior-superior", straight[0]],
        "spacings": ["spacings: 0.5 0.8 2.5"],
        "spacings, not known": ["spacings: 0.5 0.8 nan"],
        "axis mins": ["spacings: 0.5 0.8 2.5", "axis mins: 1 2 3"],
        "units": ["space: left-posterior-superior", *straight, 'space units: "mm" "mm" "mm"'],
        "metres": ["space: left-posterior-superior", *straight, 'space units: "m" "m" "m"'],
        "measurement frame": ["space: RAS", *straight, "measurement frame: (1,0,0) (0,1,0) (0,0,1)"],
        "nothing": [],
    }
    return made


@pytest.mark.parametrize("name", headers())
def test_image_and_label_lie_where_itk_puts_the_image(tmp_path: Path, name: str) -> None:
    lines = ["NRRD0005", "type: short", "dimension: 3", "sizes: 4 3 2", "endian: little", "encoding: raw"]
    space, others = [line for line in headers()[name] if line.startswith("space")], headers()[name]
    lines += space + [line for line in others if line not in space]
    path = tmp_path / "a.nrrd"
    path.write_bytes(("\n".join(lines) + "\n\n").encode() + KJI.tobytes())
    image, expected = read_image(path), SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(image.frames, SimpleITK.GetArrayFromImage(expected))
    write_label_volume(np.ones(KJI.shape, np.uint8), image.affine, tmp_path / "label.nrrd")
    label = SimpleITK.ReadImage(str(tmp_path / "label.nrrd"))
    for corner in np.ndindex(2, 2, 2):
        index = [c * (size - 1) for c, size in zip(corner, (4, 3, 2), strict=True)]
        lps = np.array(expected.TransformIndexToPhysicalPoint(index))
        np.testing.assert_allclose((image.affine @ (*index, 1))[:3] * (-1, -1, 1), lps, atol=1e-5)
        np.testing.assert_allclose(label.TransformIndexToPhysicalPoint(index), lps, atol=1e-5)
