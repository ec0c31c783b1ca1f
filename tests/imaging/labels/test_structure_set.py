"""Contours of masks, and RT Structure Sets of series."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lib.imaging.dicom.data_sets import write
from lib.imaging.dicom.geometry import plane_of
from lib.imaging.image import UnsupportedImageError
from lib.imaging.labels.structure_set import polygons, structure_set


def inside(polygon: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """``(rows, columns)`` bool: which centres of pixels are inside, by how often a line to the right crosses it."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    crossings = np.zeros(shape, int)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        spans = (y0 > y) != (y1 > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            crossings += spans & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return crossings % 2 == 1


def filled(found: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    return np.logical_or.reduce([inside(polygon, shape) for polygon in found] or [np.zeros(shape, bool)])


@settings(deadline=None, max_examples=60)
@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_the_outlines_hold_the_mask_and_nothing_else(mask):
    found = polygons(mask)
    assert np.array_equal(filled(found, mask.shape), mask)
    assert all(len(polygon) >= 4 for polygon in found)


def test_holes_and_islands_in_holes():
    mask = np.zeros((30, 40), bool)
    mask[3:27, 4:36] = True
    mask[6:12, 8:16] = mask[15:24, 20:32] = False
    mask[18:21, 24:28] = True
    found = polygons(mask)
    assert len(found) == 2, "the frame with its two holes, and the island"
    assert np.array_equal(filled(found, mask.shape), mask)
    assert min(map(len, found)) == 8, "straight sides need no points in between"


@pytest.fixture
def sources(make_ct) -> list[pydicom.Dataset]:
    """Four slices, the last one far from the others."""
    pixels = np.zeros((24, 30), np.int16)
    return [
        make_ct(pixels, ImagePositionPatient=[-10.0, 20.0, height], InstanceNumber=number)
        for number, height in enumerate((0.0, 2.5, 5.0, 11.0), start=1)
    ]


def test_contours_lie_where_the_pixels_are(sources, dciodvfy, tmp_path):
    labels = np.zeros((4, 24, 30), np.uint8)
    labels[1, 5:12, 6:20] = labels[3, 8:20, 3:9] = 1
    labels[2, 10:14, 15:25] = 2
    made = structure_set(
        labels, sources=sources, names=["liver", "spleen"], software_version="1", instance_time=datetime(2026, 1, 2)
    )
    write(made, tmp_path / "structures.dcm")
    assert dciodvfy(tmp_path / "structures.dcm") == []
    read = pydicom.dcmread(tmp_path / "structures.dcm")
    assert read.Modality == "RTSTRUCT" and read.PatientID == sources[0].PatientID
    assert read.StudyInstanceUID == sources[0].StudyInstanceUID
    assert read.SeriesInstanceUID != sources[0].SeriesInstanceUID
    assert [roi.ROIName for roi in read.StructureSetROISequence] == ["liver", "spleen"]
    (frame,) = read.ReferencedFrameOfReferenceSequence
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert [item.ReferencedSOPInstanceUID for item in series.ContourImageSequence] == [
        source.SOPInstanceUID for source in sources
    ]
    by_instance = {source.SOPInstanceUID: k for k, source in enumerate(sources)}
    found = np.zeros_like(labels)
    for roi in read.ROIContourSequence:
        for contour in roi.ContourSequence:
            k = by_instance[contour.ContourImageSequence[0].ReferencedSOPInstanceUID]
            plane = plane_of(sources[k])
            assert plane is not None
            points = np.array(contour.ContourData, float).reshape(-1, 3) - plane.position
            assert np.abs(points @ plane.normal).max() < 1e-3, "in the plane of its frame"
            x, y = points @ plane.row_direction, points @ plane.column_direction
            pixels = np.stack([x / plane.column_spacing, y / plane.row_spacing], axis=1)
            found[k][inside(pixels, labels.shape[1:])] = roi.ReferencedROINumber
    assert np.array_equal(found, labels)


def test_a_series_without_a_place_is_refused(sources):
    for source in sources:
        del source.ImagePositionPatient
    with pytest.raises(UnsupportedImageError, match="no place in the patient"):
        structure_set(
            np.ones((4, 24, 30), np.uint8),
            sources=sources,
            names=["x"],
            software_version="1",
            instance_time=datetime(2026, 1, 2),
        )
