"""Pixel spacing without a position is also written to labels, Secondary Captures and Segmentations."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
import SimpleITK

from lib.imaging.dicom.data_sets import write
from lib.imaging.dicom.secondary_capture import secondary_capture
from lib.imaging.formats.nifti import write_nifti
from lib.imaging.labels.label_writers import write_label_volume
from lib.imaging.labels.segmentation import segmentation
from lib.imaging.readers import read_image
from support.items import NO_PLACE, item

WHEN = datetime(2026, 1, 2)
CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
CR, DX, XA = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("1", "1.1", "12.1"))
US, US_MULTI = "1.2.840.10008.5.1.4.1.1.6.1", "1.2.840.10008.5.1.4.1.1.3.1"
SC, NM = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.20"


def region(row: float, column: float, units: tuple[int, int] = (3, 3), **attributes):
    return item(
        RegionSpatialFormat=1,
        RegionDataType=1,
        PhysicalUnitsXDirection=units[0],
        PhysicalUnitsYDirection=units[1],
        PhysicalDeltaX=column,
        PhysicalDeltaY=row,
        **attributes,
    )


def place(image: SimpleITK.Image, voxel: tuple[int, int, int]) -> tuple[float, ...]:
    return image.TransformIndexToPhysicalPoint(voxel)


AS_ITK = {
    "Pixel Spacing": (US, {"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
    "of a CT without position": (CT, {"PixelSpacing": [0.2, 0.3], "SliceThickness": 1}, (0.2, 0.3)),
    "of a Secondary Capture": (SC, {"PixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
    "Imager Pixel Spacing of a CR": (CR, {"ImagerPixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
    "of a DX": (DX, {"ImagerPixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
    "of an XA": (XA, {"ImagerPixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
    "Nominal Scanned Pixel Spacing": (SC, {"NominalScannedPixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
    "orientation alone": (
        CT,
        {"PixelSpacing": [0.2, 0.3], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        (0.2, 0.3),
    ),
    "position alone": (MR, {"PixelSpacing": [0.2, 0.3], "ImagePositionPatient": [7, 8, 9]}, (0.2, 0.3)),
    "position and orientation alone": (
        CT,
        {"ImagePositionPatient": [7, 8, 9], "ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        (1, 1),
    ),
    "nothing": (US, {}, (1, 1)),
}
BEYOND_ITK = {
    "magnified": (
        DX,
        {"ImagerPixelSpacing": [0.2, 0.3], "EstimatedRadiographicMagnificationFactor": 1.25},
        (0.16, 0.24),
    ),
    "calibrated": (DX, {"PixelSpacing": [0.1, 0.15], "ImagerPixelSpacing": [0.2, 0.3]}, (0.1, 0.15)),
    "Imager Pixel Spacing elsewhere": (SC, {"ImagerPixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
    "invalid, then valid": (DX, {"PixelSpacing": [0, 0], "ImagerPixelSpacing": [0.2, 0.3]}, (0.2, 0.3)),
    "ultrasound region": (US, {"SequenceOfUltrasoundRegions": [region(0.02, -0.03)]}, (0.2, 0.3)),
    "ultrasound beside a spectrum": (
        US,
        {"SequenceOfUltrasoundRegions": [region(0.02, 0.03), region(1.5, 0.004, (4, 7)), region(0.02, 0.03)]},
        (0.2, 0.3),
    ),
    "two ultrasound regions of other sizes": (
        US,
        {"SequenceOfUltrasoundRegions": [region(0.02, 0.03), region(0.01, 0.01)]},
        (1, 1),
    ),
    "a spectrum alone": (US, {"SequenceOfUltrasoundRegions": [region(1.5, 0.004, (4, 7))]}, (1, 1)),
}


@pytest.mark.parametrize("name", [*AS_ITK, *BEYOND_ITK])
def test_what_is_made_has_the_spacing_of_the_source(make_ct, save, tmp_path, gradient, name):
    sop_class, attributes, (rows, columns) = (AS_ITK | BEYOND_ITK)[name]
    source = save(make_ct(gradient, **dict.fromkeys(NO_PLACE) | attributes, SOPClassUID=sop_class), "a.dcm")
    image = read_image(source)
    assert not image.is_geometric
    itk = SimpleITK.ReadImage(str(source))
    for suffix in (".nrrd", ".nii.gz", ".nii"):
        write_label_volume(np.ones((1, 5, 7), np.uint8), image.affine_for([0]), tmp_path / f"label{suffix}")
        label = SimpleITK.ReadImage(str(tmp_path / f"label{suffix}"))
        np.testing.assert_allclose(label.GetSpacing()[:2], (columns, rows), rtol=1e-6)
        if name in AS_ITK:
            for corner in ((0, 0, 0), (6, 0, 0), (0, 4, 0), (6, 4, 0)):
                np.testing.assert_allclose(place(label, corner), place(itk, corner), atol=1e-5)
    write_nifti(image, tmp_path / "again.nii")
    np.testing.assert_allclose(
        SimpleITK.ReadImage(str(tmp_path / "again.nii")).GetSpacing()[:2], (columns, rows), rtol=1e-6
    )


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("name", [*AS_ITK, *BEYOND_ITK])
def test_so_do_the_dicom_objects(make_ct, save, tmp_path, gradient, name, dciodvfy):
    sop_class, attributes, spacing = (AS_ITK | BEYOND_ITK)[name]
    (source,) = read_image(
        save(make_ct(gradient, **dict.fromkeys(NO_PLACE) | attributes, SOPClassUID=sop_class))
    ).datasets
    known = spacing != (1, 1)
    capture = secondary_capture(
        np.zeros((5, 7, 3), np.uint8), source=source, series_description="a", instance_time=WHEN, derivation="b"
    )
    made = segmentation(
        np.ones((5, 7), np.uint8),
        source=source,
        frame=0,
        segment_labels=["a"],
        algorithm_name="a",
        algorithm_version="1",
        instance_time=WHEN,
    )
    for dataset, file in ((capture, "sc.dcm"), (made, "seg.dcm")):
        write(dataset, tmp_path / file)
        assert dciodvfy(tmp_path / file) == []
    assert ("PixelSpacing" in capture) is known
    measures = made.SharedFunctionalGroupsSequence[0].get("PixelMeasuresSequence")
    if known:
        assert [float(value) for value in capture.PixelSpacing] == pytest.approx(spacing)
        assert [float(value) for value in measures[0].PixelSpacing] == pytest.approx(spacing)


@pytest.mark.parametrize(
    ("sop_class", "attributes", "steps"),
    [
        (US_MULTI, {"PixelSpacing": [0.2, 0.3]}, 1.0),
        (CT, {"PixelSpacing": [0.2, 0.3], "SpacingBetweenSlices": 2.5}, 2.5),
        (
            CT,
            {
                "PixelSpacing": [0.2, 0.3],
                "SpacingBetweenSlices": 2.5,
                "SliceThickness": 4,
                "ImagePositionPatient": [1, 2, 3],
                "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
            },
            2.5,
        ),
        *(
            (
                NM,
                {
                    "PixelSpacing": [0.2, 0.3],
                    "SpacingBetweenSlices": step,
                    "DetectorInformationSequence": [
                        item(ImagePositionPatient=[1, 2, 3], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
                    ],
                },
                step,
            )
            for step in (2.5, -2.5)
        ),
    ],
)
def test_frames_without_places_of_their_own_lie_as_in_itk(make_ct, save, sop_class, attributes, steps):
    stored = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    path = save(make_ct(stored, **dict.fromkeys(NO_PLACE) | attributes, SOPClassUID=sop_class), "a.dcm")
    image, itk = read_image(path), SimpleITK.ReadImage(str(path))
    for corner in ((0, 0, 0), (4, 3, 0), (0, 0, 2), (4, 3, 2)):
        ras = image.affine_for([1]) @ (*corner, 1)
        np.testing.assert_allclose(ras[:3] * (-1, -1, 1), place(itk, corner), atol=1e-5)
    assert image.affine[2, 2] == pytest.approx(steps)
