"""Positions of NIfTI images are the same here and in ITK (and so 3D Slicer), for a table of headers."""

from __future__ import annotations

import gzip
import struct
from itertools import product
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from lib.imaging.formats.nifti import write_nifti
from lib.imaging.labels.label_writers import write_label_volume
from lib.imaging.readers import read_image

SHAPE = (6, 5, 4)
TOLERANCE = 0.01
TURN = np.array([[0.936, -0.352, 0.0], [0.31, 0.824, -0.475], [0.167, 0.445, 0.88]])
NAN, INF = float("nan"), float("inf")


def affine(linear: np.ndarray, sizes: tuple[float, float, float] = (0.8, 0.5, 2.5)) -> np.ndarray:
    made = np.eye(4)
    made[:3, :3] = linear * sizes
    made[:3, 3] = (-91.5, 126.25, -72.75)
    return made


def orthogonal(linear: np.ndarray) -> np.ndarray:
    left, _, right = np.linalg.svd(linear)
    return left @ right


OBLIQUE = affine(orthogonal(TURN))
LEFT_HANDED = affine(np.diag([-1.0, 1.0, 1.0]))
SHEARED = affine(np.eye(3) + np.array([[0, 0, 0.2], [0, 0, 0], [0, 0, 0]]))
NEARLY = affine(np.eye(3) + np.array([[0, 4e-5, 0], [0, 0, 0], [0, 0, 0]]))
ELSEWHERE = affine(orthogonal(TURN.T), (0.8, 0.5, 2.5))
OTHER_SIZES = affine(np.eye(3), (1.6, 1.0, 5.0))
MATRICES = {
    "oblique": OBLIQUE,
    "left-handed": LEFT_HANDED,
    "sheared": SHEARED,
    "nearly straight": NEARLY,
    "elsewhere": ELSEWHERE,
    "other sizes": OTHER_SIZES,
}


def stored(
    sform: np.ndarray = OBLIQUE,
    qform: np.ndarray = OBLIQUE,
    codes: tuple[int, int] = (1, 1),
    *,
    shape: tuple[int, ...] = SHAPE,
    order: str = "<",
    pixdim: dict[int, float] | None = None,
    units: int = 2,
) -> bytes:
    """Return a NIfTI-1 file, made field by field; ``codes`` are the qform and sform codes."""
    voxels = np.arange(np.prod(shape), dtype=f"{order}i2").reshape(shape, order="F")
    image = nibabel.Nifti1Image(voxels, None, nibabel.Nifti1Header(endianness=order))
    image.header.set_data_dtype(f"{order}i2")
    image.header.set_qform(qform if np.linalg.det(qform[:3, :3]) else OBLIQUE, 1, strip_shears=True)
    image.header.set_sform(sform, 1)
    content = bytearray(image.to_bytes())
    content[252:256] = struct.pack(f"{order}hh", *codes)
    content[123] = units
    for index, value in (pixdim or {}).items():
        content[76 + 4 * index : 80 + 4 * index] = struct.pack(f"{order}f", value)
    return bytes(content)


def table() -> dict[str, bytes]:
    """Return headers by name."""
    made: dict[str, bytes] = {}
    for (name, sform), (other, qform), q, s in product(MATRICES.items(), MATRICES.items(), (0, 1, 2, 4), (0, 1, 2)):
        made[f"sform {name} ({s}), qform {other} ({q})"] = stored(sform, qform, (q, s))
    for units, codes in product((0, 1, 2, 3, 8, 9, 10, 11, 16, 24), ((0, 0), (1, 0), (0, 1), (1, 1))):
        made[f"units {units}, codes {codes}"] = stored(codes=codes, units=units)
    for index, value, codes in product((1, 2, 3), (0, -2.0, NAN, INF, 3.5), ((0, 0), (1, 0), (0, 1), (1, 1))):
        made[f"pixdim[{index}] {value}, codes {codes}"] = stored(codes=codes, pixdim={index: value})
    for qfac, matrix in product((0, -1, 1, 2, NAN), ("oblique", "left-handed")):
        made[f"qfac {qfac}, {matrix}"] = stored(qform=MATRICES[matrix], codes=(1, 0), pixdim={0: qfac})
    for order, shape in product("<>", (SHAPE, (*SHAPE, 1), (*SHAPE, 1, 1), (6, 5, 1), (6, 5, 1, 1), (6, 5))):
        for codes in ((0, 0), (1, 0), (0, 1), (1, 1)):
            matrix = LEFT_HANDED if len(shape) == 2 else OBLIQUE
            content = stored(matrix, matrix, shape=shape, order=order, codes=codes)
            made[f"shape {shape}, order {order}, codes {codes}"] = content
    for offset in (0, 100, 347, 348, 350, 352, 353, 360.7, 1024):
        content = bytearray(stored())
        content[108:112] = struct.pack("<f", offset)
        made[f"vox_offset {offset}"] = bytes(content[:352] + bytes(max(int(offset) - 352, 0)) + content[352:])
    for slope, intercept in ((0, 0), (NAN, 0), (INF, 0), (2, NAN), (2, 3), (1, -5)):
        content = bytearray(stored())
        content[112:120] = struct.pack("<ff", slope, intercept)
        made[f"scl {slope}, {intercept}"] = bytes(content)
    for q, s in product((0, 1, 5, 7, -1), repeat=2):
        made[f"odd codes {q}, {s}"] = stored(LEFT_HANDED, ELSEWHERE, codes=(q, s))
    return made


def corners(size: tuple[int, ...]) -> np.ndarray:
    """Return the corner voxels, ``(N, 4)`` of ``(i, j, k, 1)``."""
    ends = [(0, length - 1) for length in (*size, 1)[:3]]
    return np.array([(*corner, 1) for corner in product(*ends)])


def itk_places(image: SimpleITK.Image) -> np.ndarray:
    """Return the corners, ``(N, 3)`` LPS mm; a 2D image is in the plane 0, as 3D Slicer shows it."""
    dimension = image.GetDimension()
    found = np.zeros((len(corners(image.GetSize())), 3))
    for place, corner in zip(found, corners(image.GetSize()), strict=True):
        place[:dimension] = image.TransformIndexToPhysicalPoint([int(index) for index in corner[:dimension]])
    return found


def our_places(matrix: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    return (corners(size) @ matrix.T)[:, :3] * (-1, -1, 1)


def compared(content: bytes, folder: Path, name: str = "a.nii") -> str:
    """Compare the image, the labels in both formats and the written image with ITK; return the verdict."""
    path = folder / name
    path.write_bytes(content)
    image = read_image(path)
    try:
        expected = SimpleITK.ReadImage(str(path))
    except RuntimeError as error:
        assert "orthonormal" in str(error)
        return "ITK refuses"
    if not np.array_equal(image.frames, np.atleast_3d(SimpleITK.GetArrayFromImage(expected).T).T):
        return "voxels"
    places, size = itk_places(expected), expected.GetSize()
    if np.abs(our_places(image.affine, size) - places).max() > TOLERANCE:
        return "place"
    labels = np.ones(image.frames.shape, np.uint8)
    for suffix in (".nrrd", ".nii.gz", ".nii"):
        write_label_volume(labels, image.affine, folder / f"label{suffix}")
        found = itk_places(SimpleITK.ReadImage(str(folder / f"label{suffix}")))
        if np.abs(found - places).max() > TOLERANCE:
            return f"label {suffix}"
    write_nifti(image, folder / "again.nii")
    if np.abs(itk_places(SimpleITK.ReadImage(str(folder / "again.nii"))) - places).max() > TOLERANCE:
        return "image written"
    return "agrees"


@pytest.mark.slow
def test_every_header_of_the_table_lies_where_itk_puts_it(tmp_path, capsys):
    results = {name: compared(content, tmp_path) for name, content in table().items()}
    counts = {result: list(results.values()).count(result) for result in sorted(set(results.values()))}
    with capsys.disabled():
        print(f"\n  {len(results)} NIfTI headers against ITK {SimpleITK.Version_ITKVersionString()}: {counts}")
    assert {name: result for name, result in results.items() if result not in ("agrees", "ITK refuses")} == {}
    assert counts["agrees"] > 500
    refused = {name for name, result in results.items() if result == "ITK refuses"}
    assert all(name.startswith("sform sheared") and name.endswith("(0)") for name in refused) and len(refused) == 12


def test_packed_as_well(tmp_path):
    assert compared(gzip.compress(stored(units=3)), tmp_path, "a.nii.gz") == "agrees"


@pytest.mark.parametrize("units", [1, 2, 3])
def test_what_itk_refuses_lies_where_its_sform_says_and_so_does_its_label(tmp_path, units):
    path = tmp_path / "a.nii"
    path.write_bytes(stored(SHEARED, codes=(0, 1), units=units))
    image = read_image(path)
    scale = {1: 1e3, 2: 1.0, 3: 1e-3}[units]
    np.testing.assert_allclose(image.affine[:3], SHEARED[:3] * scale, rtol=1e-5)
    write_label_volume(np.ones(image.frames.shape, np.uint8), image.affine, tmp_path / "label.nii")
    label = nibabel.Nifti1Image.from_filename(tmp_path / "label.nii")
    np.testing.assert_allclose(label.affine, image.affine, rtol=1e-5)
    with pytest.raises(RuntimeError, match="orthonormal"):  # ITK refuses the image as well
        SimpleITK.ReadImage(str(tmp_path / "label.nii"))


@pytest.mark.parametrize("units", [1, 2, 3])
@pytest.mark.parametrize(("q", "s"), [(0, 0), (1, 0), (0, 1), (2, 1)])
def test_nifti_2_lies_where_the_same_nifti_1_does(tmp_path, units, q, s):
    first = nibabel.Nifti1Image.from_bytes(stored(LEFT_HANDED, OBLIQUE, (q, s), units=units))
    second = nibabel.Nifti2Image(np.asarray(first.dataobj), None, nibabel.Nifti2Header.from_header(first.header))
    second.header["sizeof_hdr"] = 540
    for key in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
        second.header[key] = first.header[key]
    (tmp_path / "1.nii").write_bytes(stored(LEFT_HANDED, OBLIQUE, (q, s), units=units))
    (tmp_path / "2.nii").write_bytes(second.to_bytes())
    one, two = read_image(tmp_path / "1.nii"), read_image(tmp_path / "2.nii")
    np.testing.assert_array_equal(one.frames, two.frames)
    np.testing.assert_allclose(one.affine, two.affine, rtol=1e-6)


def test_voxels_of_nanometres_are_no_damage(tmp_path):
    small = affine(np.eye(3), (0.02, 0.02, 0.05))
    (tmp_path / "a.nii").write_bytes(stored(small, small, units=3))
    sizes = np.linalg.norm(read_image(tmp_path / "a.nii").affine[:3, :3], axis=0)
    np.testing.assert_allclose(sizes, [2e-5, 2e-5, 5e-5], rtol=1e-3)
