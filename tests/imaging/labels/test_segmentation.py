from __future__ import annotations

import copy
from datetime import datetime

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset

from lib.imaging.dicom.data_sets import read_dataset, to_bytes, write
from lib.imaging.dicom.secondary_capture import secondary_capture
from lib.imaging.labels.segmentation import segmentation
from lib.imaging.readers import read_image

WHEN = datetime(2026, 1, 2, 3, 4, 5)
PNG = "a PNG"
SOURCES = [
    ("CT_small.dcm", 0),
    ("MR_small.dcm", 0),
    ("ExplVR_BigEnd.dcm", 0),
    ("693_J2KI.dcm", 0),
    ("rtdose.dcm", 14),
    ("rtdose.dcm", 3),
    ("GDCMJ2K_TextGBR.dcm", 0),
    ("JPGExtended.dcm", 0),
    ("image_dfl.dcm", 0),
    ("MR_small_jpeg_ls_lossless.dcm", 0),
    ("SC_rgb_jpeg_dcmtk.dcm", 0),
    (PNG, 0),
]


def objects(size: tuple[int, int]) -> np.ndarray:
    """Return objects 1 and 3 with different shapes, so that a flip, shift or swap is detected; object 2 is absent."""
    labels = np.zeros(size, dtype=np.uint8)
    labels[1, 1:3] = 1
    labels[2:4, 0] = 3
    labels[-1, -1] = 3
    return labels


def segment(source: Dataset, labels: np.ndarray, frame: int = 0, **changes) -> Dataset:
    names = ["liver", "spleen", "Läsion 病変"]
    arguments = {"segment_labels": names, "algorithm_name": "sam_tiny", "algorithm_version": "1.0"} | changes
    return segmentation(labels, source=source, frame=frame, instance_time=WHEN, **arguments)


def source_of(sample, name: str) -> Dataset:
    if name == PNG:
        rgb = np.zeros((37, 41, 3), np.uint8)
        return secondary_capture(rgb, source=None, series_description="PNG", instance_time=WHEN, derivation="upload")
    return read_image(sample(name)).datasets[0]


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(("name", "frame"), SOURCES)
def test_dciodvfy_finds_no_error_and_highdicom_reads_it_back(sample, dciodvfy, tmp_path, name: str, frame: int) -> None:
    source = source_of(sample, name)
    labels = objects((source.Rows, source.Columns))
    write(segment(source, labels, frame), tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []

    found = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert found.SegmentationType == "BINARY" and found.number_of_segments == 3 and found.NumberOfFrames == 3
    planes = found.pixel_array
    for number, groups in enumerate(found.PerFrameFunctionalGroupsSequence, start=1):
        assert groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber == number
        np.testing.assert_array_equal(planes[number - 1], labels == number)
        (reference,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert reference.ReferencedSOPClassUID == source.SOPClassUID
        assert reference.get("ReferencedFrameNumber") == (
            frame + 1 if (source.get("NumberOfFrames") or 1) > 1 else None
        )
    assert found.StudyInstanceUID == source.StudyInstanceUID and found.PatientID == source.get("PatientID", "")
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID


def test_highdicom_gives_the_label_map_back(make_ct, gradient) -> None:
    source = make_ct(gradient)
    labels = objects(gradient.shape)
    found = highdicom.seg.Segmentation.from_dataset(read_dataset(to_bytes(segment(source, labels))))
    pixels = found.get_pixels_by_source_instance(
        [source.SOPInstanceUID], combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels[0], labels)


def test_the_place_is_the_sources(make_ct, gradient) -> None:
    source = make_ct(gradient, ImageOrientationPatient=[0.8, 0.6, 0, -0.6, 0.8, 0])
    result = read_dataset(to_bytes(segment(source, objects(gradient.shape))))
    shared = result.SharedFunctionalGroupsSequence[0]
    assert result.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == source.ImageOrientationPatient
    assert shared.PixelMeasuresSequence[0].PixelSpacing == source.PixelSpacing
    assert shared.PixelMeasuresSequence[0].SliceThickness == 3
    for groups in result.PerFrameFunctionalGroupsSequence:
        assert groups.PlanePositionSequence[0].ImagePositionPatient == source.ImagePositionPatient


def test_each_frame_of_a_multi_frame_has_its_own_place(sample) -> None:
    image = read_image(sample("rtdose.dcm"))
    (source,) = image.datasets
    result = segment(source, objects(image.frame_size), 9)
    (position,) = result.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence
    ras = image.affine @ (0, 0, 9, 1)
    np.testing.assert_allclose(position.ImagePositionPatient, (-ras[0], -ras[1], ras[2]), atol=1e-4)


@pytest.mark.parametrize("missing", ["FrameOfReferenceUID", "ImagePositionPatient", "PixelSpacing", "SliceThickness"])
def test_a_ct_with_an_incomplete_place_still_works(make_ct, gradient, dciodvfy, tmp_path, missing: str) -> None:
    source = make_ct(gradient, **{missing: None})
    result = segment(source, objects(gradient.shape))
    write(result, tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    assert ("FrameOfReferenceUID" in result) == (missing == "SliceThickness")
    assert result.SourceImageSequence[0].ReferencedSOPClassUID == source.SOPClassUID


@pytest.mark.parametrize("frame", [0, 2])
def test_multi_frame_ultrasound(make_ct, dciodvfy, tmp_path, frame: int) -> None:
    nowhere = (
        "ImagePositionPatient",
        "ImageOrientationPatient",
        "PixelSpacing",
        "SliceThickness",
        "FrameOfReferenceUID",
    )
    source = make_ct(
        np.zeros((3, 6, 8, 3), np.uint8),
        **dict.fromkeys(nowhere),
        SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1",
        Modality="US",
    )
    labels = objects((6, 8))
    write(segment(source, labels, frame), tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    found = highdicom.seg.segread(tmp_path / "seg.dcm")
    np.testing.assert_array_equal(found.pixel_array[2], labels == 3)
    assert found.SourceImageSequence[0].ReferencedFrameNumber == frame + 1


def test_an_empty_mask_is_a_valid_object(make_ct, gradient, dciodvfy, tmp_path) -> None:
    write(
        segment(make_ct(gradient), np.zeros(gradient.shape, np.uint8), segment_labels=["liver"]), tmp_path / "seg.dcm"
    )
    assert dciodvfy(tmp_path / "seg.dcm") == []
    found = highdicom.seg.segread(tmp_path / "seg.dcm")
    assert found.number_of_segments == 1 and not found.pixel_array.any()


def test_segments_say_what_made_them(make_ct, gradient) -> None:
    result = read_dataset(to_bytes(segment(make_ct(gradient), objects(gradient.shape))))
    third = result.SegmentSequence[2]
    assert (third.SegmentLabel, third.SegmentAlgorithmType, third.SegmentAlgorithmName) == (
        "Läsion 病変",
        "SEMIAUTOMATIC",
        "sam_tiny",
    )
    (algorithm,) = third.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("sam_tiny", "1.0")
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeValue == "123110"
    colours = {tuple(item.RecommendedDisplayCIELabValue) for item in result.SegmentSequence}
    assert len(colours) == 3
    automatic = segment(make_ct(gradient), objects(gradient.shape), is_automatic=True)
    assert automatic.SegmentSequence[0].SegmentAlgorithmType == "AUTOMATIC"


def test_segments_are_coded_by_what_their_labels_name(make_ct, gradient, dciodvfy, tmp_path) -> None:
    names = ["Kidney L 1", "liver lesion 2", "nodule in right lung"]
    write(segment(make_ct(gradient), objects(gradient.shape), segment_labels=names), tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    kidney, lesion, nodule = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence
    assert [item.SegmentLabel for item in (kidney, lesion, nodule)] == names

    def code(item: Dataset, keyword: str) -> tuple[str, str]:
        (concept,) = item[keyword].value
        return concept.CodeValue, concept.CodingSchemeDesignator

    assert code(kidney, "SegmentedPropertyCategoryCodeSequence") == ("91723000", "SCT")
    assert code(kidney, "SegmentedPropertyTypeCodeSequence") == ("64033007", "SCT")
    (kind,) = kidney.SegmentedPropertyTypeCodeSequence
    assert code(kind, "SegmentedPropertyTypeModifierCodeSequence") == ("7771000", "SCT")
    assert "AnatomicRegionSequence" not in kidney

    assert code(lesion, "SegmentedPropertyCategoryCodeSequence") == ("49755003", "SCT")
    assert code(lesion, "SegmentedPropertyTypeCodeSequence") == ("52988006", "SCT")
    assert code(lesion, "AnatomicRegionSequence") == ("10200004", "SCT")

    assert code(nodule, "AnatomicRegionSequence") == ("39607008", "SCT")
    (region,) = nodule.AnatomicRegionSequence
    assert code(region, "AnatomicRegionModifierSequence") == ("24028007", "SCT")
    (kind,) = nodule.SegmentedPropertyTypeCodeSequence
    assert "SegmentedPropertyTypeModifierCodeSequence" not in kind


@pytest.mark.parametrize("frame", [0, 3])
@pytest.mark.parametrize("kind", ["enhanced CT", "enhanced MR", "multi-frame ultrasound", "multi-frame capture"])
def test_highdicom_finds_the_mask_by_the_source_frame(multi_frame, dciodvfy, tmp_path, kind: str, frame: int) -> None:
    source = multi_frame(kind)
    labels = objects((source.Rows, source.Columns))
    write(segment(source, labels, frame), tmp_path / "seg.dcm")
    assert dciodvfy(tmp_path / "seg.dcm") == []
    found = highdicom.seg.segread(tmp_path / "seg.dcm")
    ask = {"combine_segments": True, "ignore_spatial_locations": True, "assert_missing_frames_are_empty": True}
    pixels = found.get_pixels_by_source_frame(source.SOPInstanceUID, [frame + 1], **ask)
    np.testing.assert_array_equal(pixels[0], labels)
    (other,) = {0, 3} - {frame}
    assert not found.get_pixels_by_source_frame(source.SOPInstanceUID, [other + 1], **ask).any()
    planes = pydicom.dcmread(tmp_path / "seg.dcm").pixel_array
    for number, plane in enumerate(planes, start=1):
        np.testing.assert_array_equal(plane, labels == number)


def test_names_survive_in_utf_8(make_ct, gradient) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    dataset = make_ct(gradient, SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name)
    result = read_dataset(to_bytes(segment(read_dataset(to_bytes(dataset)), objects(gradient.shape))))
    assert result.SpecificCharacterSet == "ISO_IR 192" and str(result.PatientName) == name


def test_source_and_result_share_nothing(make_ct, gradient) -> None:
    code = Dataset()
    code.CodeMeaning = "before"
    source = make_ct(gradient, ProcedureCodeSequence=[code])
    before = copy.deepcopy(source)
    result = segment(source, objects(gradient.shape))
    result.ProcedureCodeSequence[0].CodeMeaning = "after"
    result.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient[0] = 99
    assert source == before


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"labels": np.zeros((4, 7), np.uint8)}, "labels must be"),
        ({"labels": np.zeros((5, 7), np.int32)}, "labels must be"),
        ({"labels": np.full((5, 7), 4, np.uint8)}, "3 names"),
        ({"segment_labels": []}, "names"),
        ({"segment_labels": ["a", "", "c"]}, "1 to 64"),
        ({"segment_labels": ["a", "b" * 65, "c"]}, "1 to 64"),
        ({"segment_labels": ["a", "b\\b", "c"]}, "no backslash"),
        ({"segment_labels": ["a", "b\n", "c"]}, "no control character"),
        ({"frame": 1}, "no frame 1"),
        ({"frame": -1}, "no frame"),
    ],
)
def test_misfits_are_refused(make_ct, gradient, changes: dict, reason: str) -> None:
    arguments = {"labels": objects(gradient.shape), "frame": 0} | changes
    with pytest.raises(ValueError, match=reason):
        segment(make_ct(gradient), arguments.pop("labels"), arguments.pop("frame"), **arguments)


@pytest.mark.parametrize("missing", ["SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_a_source_that_cannot_be_referenced_is_refused(make_ct, gradient, missing: str) -> None:
    source = make_ct(gradient)
    delattr(source, missing)
    with pytest.raises(ValueError, match="referenced"):
        segment(source, objects(gradient.shape))


def field_header(make_ct, save, **values: str) -> Dataset:
    """Return an image header with values found in archives, including values that the standard does not allow."""
    dataset = make_ct(np.arange(30, dtype=np.uint16).reshape(5, 6))
    for keyword, value in values.items():
        vr = dataset[keyword].VR if keyword in dataset else dictionary_VR(keyword)
        dataset.add_new(keyword, vr, value)
    return read_image(save(dataset)).datasets[0]


@pytest.mark.parametrize(
    "values",
    [
        {"StudyInstanceUID": "1.2.826.01.5", "SeriesInstanceUID": "1.02.00.3", "SOPInstanceUID": "1.2.03"},
        {"StudyInstanceUID": "1.2." + "9" * 80, "SeriesInstanceUID": "1." + "8" * 70, "FrameOfReferenceUID": "1.02.3"},
        {"StudyInstanceUID": "STUDY-1", "SeriesInstanceUID": "S_1", "SOPInstanceUID": "IMG.1", "Modality": "ct lower"},
        {"PatientID": "X" * 80, "AccessionNumber": "A" * 40, "StudyDescription": "D" * 200, "PatientAge": "45"},
        {"PatientName": "N" * 100 + "=a=b=c=d", "PositionReferenceIndicator": "P" * 90, "Laterality": "LEFT SIDE"},
    ],
    ids=lambda values: "+".join(values),
)
def test_values_that_the_standard_forbids_are_copied(make_ct, save, tmp_path, values) -> None:
    source = field_header(make_ct, save, **values)
    picture = np.zeros((5, 6, 3), np.uint8)
    captured = secondary_capture(picture, source=source, series_description="", instance_time=WHEN, derivation="")
    for made in (segment(source, objects((5, 6))), captured):
        write(made, tmp_path / "made.dcm")
        read = read_dataset((tmp_path / "made.dcm").read_bytes())
        assert read.StudyInstanceUID == source.StudyInstanceUID
        assert read.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert (read.PatientID, read.PatientName) == (source.PatientID, source.PatientName)


def test_a_number_that_is_none_is_left_out(make_ct, save) -> None:
    dataset = make_ct(np.zeros((5, 6), np.uint16), PatientWeight="70.5")
    path = save(dataset)
    path.write_bytes(path.read_bytes().replace(b"70.5", b"70,5"))
    assert "PatientWeight" not in segment(read_image(path).datasets[0], objects((5, 6)))


@pytest.mark.parametrize("label", ["غده\u200cی تیروئید", "क्ष\u200dय", "右\u3000腎", "כָּבֵד", "La\u0308sion 🫁"])
def test_a_segments_label_may_be_in_any_language(make_ct, save, tmp_path, label) -> None:
    source = field_header(make_ct, save)
    write(segment(source, objects((5, 6)), segment_labels=[label, "b", "c"]), tmp_path / "seg.dcm")
    read = read_dataset((tmp_path / "seg.dcm").read_bytes())
    assert read.SpecificCharacterSet == "ISO_IR 192"
    assert read.SegmentSequence[0].SegmentLabel == label
