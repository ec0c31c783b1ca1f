"""The mask lies where the click was, however a series was acquired: measured in mm in the patient."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK

from lib.dicomweb.dicom_seg import segmentation_of_labels
from lib.imaging.dicom.data_sets import read_dataset, to_bytes, write
from lib.imaging.dicom.reader import read_series_grid
from lib.imaging.formats.nifti import write_nifti
from lib.imaging.labels.series_segmentation import labels_from_segmentation, series_segmentation
from lib.imaging.readers import read_image
from support.patient import centroid, points, voxel_at
from support.segment_requests import viewer_request
from support.series import ACQUISITIONS, LANDMARK, RADIUS, SHAPE, TILTED, Acquisition, voxels

EVERY = [*ACQUISITIONS, *TILTED]
CORNERS = np.array([[i, j, k, 1] for i in (0, SHAPE[2] - 1) for j in (0, SHAPE[1] - 1) for k in (0, SHAPE[0] - 1)])
MODEL_TOLERANCE = 1.0
"""mm that the centroid of a mask may be off: less than a pixel, so that no shift or flip goes unseen."""

each = pytest.mark.parametrize("acquisition", EVERY, ids=lambda acquisition: acquisition.name)


def off(found: np.ndarray) -> float:
    return float(np.linalg.norm(found - LANDMARK))


@pytest.fixture
def converted(series_of, acquisition, tmp_path):
    """The series as NIfTI by ITK, as MONAI Label converts one."""
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(series_of(acquisition))))
    made = tmp_path / "itk.nii.gz"
    SimpleITK.WriteImage(reader.Execute(), str(made))
    return read_image(made)


@pytest.mark.parametrize("acquisition", ACQUISITIONS, ids=lambda acquisition: acquisition.name)
def test_a_series_has_the_voxels_and_the_place_that_itk_gives_it(series_of, acquisition, converted):
    ours = read_image(series_of(acquisition))
    np.testing.assert_array_equal(ours.frames, converted.frames)
    np.testing.assert_allclose(CORNERS @ ours.affine.T, CORNERS @ converted.affine.T, atol=1e-3)


@pytest.mark.parametrize("acquisition", TILTED, ids=lambda acquisition: acquisition.name)
def test_itk_displaces_a_tilted_series_and_we_do_not(series_of, acquisition, converted):
    ours = read_image(series_of(acquisition))
    np.testing.assert_array_equal(ours.frames, converted.frames)
    voxel = np.array([*voxel_at(series_of(acquisition), LANDMARK), 1])
    to_lps = np.diag([-1, -1, 1, 1])
    assert off((to_lps @ converted.affine @ voxel)[:3]) > 10
    assert off((to_lps @ ours.affine @ voxel)[:3]) < 1


@pytest.mark.slow
@each
def test_the_mask_lies_where_the_click_was(series_of, task, acquisition, tmp_path):
    folder = series_of(acquisition)
    click = voxel_at(folder, LANDMARK)
    files = []
    for suffix in (".nrrd", ".nii.gz"):
        path, _ = task(viewer_request(str(folder), foreground=[click], result_extension=suffix))
        files.append(Path(path).rename(tmp_path / f"label{suffix}"))
    files.append(tmp_path / "seg.dcm")
    write(segmentation_of_labels(read_series_grid(folder), files[0], [{"name": "ball"}]), files[-1])

    distances = [off(centroid(file)) for file in files]
    assert max(distances) < MODEL_TOLERANCE
    everywhere = [points(file) for file in files]
    for found in everywhere:
        assert len(found) > 200
        assert np.linalg.norm(found - LANDMARK, axis=1).max() < RADIUS + 4
        np.testing.assert_allclose(np.sort(found, axis=0), np.sort(everywhere[0], axis=0), atol=1e-3)


@each
def test_the_whole_ball_as_a_segmentation(series_of, acquisition, tmp_path, dciodvfy):
    """Several frames: each lies where its source does, and comes back as it was."""
    folder = series_of(acquisition)
    grid = read_series_grid(folder)
    labels = (read_image(folder).frames > 50).astype(np.uint8)
    made = series_segmentation(
        labels,
        sources=grid.sources,
        segment_labels=["ball"],
        algorithm_name="truth",
        algorithm_version="1",
        instance_time=datetime(2026, 1, 2),
    )
    write(made, tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    assert made.NumberOfFrames == np.count_nonzero(labels.any(axis=(1, 2))) > 4
    assert off(centroid(tmp_path / "seg.dcm")) < 0.2
    np.testing.assert_array_equal(labels_from_segmentation(read_dataset(to_bytes(made)), grid.sources), labels)
    truth = voxels(acquisition)[1]
    assert np.count_nonzero(labels) == np.count_nonzero(truth)


@each
def test_the_series_as_nifti_lies_where_the_series_does(series_of, acquisition, tmp_path):
    image = read_image(series_of(acquisition))
    path = tmp_path / "series.nii.gz"
    write_nifti(image, path)
    again = read_image(path)
    np.testing.assert_array_equal(again.frames, image.frames)
    np.testing.assert_allclose(CORNERS @ again.affine.T, CORNERS @ image.affine.T, atol=1e-3)
    if acquisition in TILTED:
        with pytest.raises(RuntimeError, match="orthonormal"):  # better than in the wrong place
            SimpleITK.ReadImage(str(path))
    else:
        found = SimpleITK.ReadImage(str(path)).TransformPhysicalPointToIndex(LANDMARK)
        assert list(found) == voxel_at(series_of(acquisition), LANDMARK)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "RPI", "SRA", "PIR", "ALS", "IPL"])
def test_a_nifti_of_any_axes(task, tmp_path, axes):
    """One body, stored with other axes first and the other way round."""
    acquisition = Acquisition("axial", row_spacing=0.9, column_spacing=1.1, gap=2.5)
    values, _ = voxels(acquisition)
    straight = nibabel.Nifti1Image(values.T, np.diag([-1, -1, 1, 1]) @ acquisition.affine)
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.io_orientation(straight.affine), nibabel.orientations.axcodes2ornt(axes)
    )
    image = straight.as_reoriented(turn)
    assert "".join(nibabel.aff2axcodes(image.affine)) == axes
    image.to_filename(tmp_path / "image.nii.gz")
    click = np.round(np.linalg.inv(image.affine) @ [-LANDMARK[0], -LANDMARK[1], LANDMARK[2], 1])[:3].astype(int)
    worst = 0.0
    for suffix in (".nrrd", ".nii.gz"):
        image_path = str(tmp_path / "image.nii.gz")
        path, _ = task(viewer_request(image_path, foreground=[click.tolist()], result_extension=suffix))
        label = Path(path).rename(tmp_path / f"label{suffix}")
        worst = max(worst, off(centroid(label)))
        seen = SimpleITK.ReadImage(str(label))
        np.testing.assert_allclose(
            seen.TransformIndexToPhysicalPoint(click.tolist()),
            SimpleITK.ReadImage(str(tmp_path / "image.nii.gz")).TransformIndexToPhysicalPoint(click.tolist()),
            atol=1e-3,
        )
    assert worst < MODEL_TOLERANCE + 0.5 * 2.5 * (axes[2] not in "SI")
