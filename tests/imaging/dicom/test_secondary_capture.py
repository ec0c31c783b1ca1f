from __future__ import annotations

import copy
from datetime import datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from lib.imaging.dicom.data_sets import read_dataset, to_bytes, write
from lib.imaging.dicom.secondary_capture import secondary_capture
from lib.imaging.labels.segmentation import segmentation
from lib.imaging.readers import read_image

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678901)
JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"


def capture(source: Dataset | None, size: tuple[int, int] = (5, 7), **changes) -> Dataset:
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    arguments = {"series_description": "Overlay", "instance_time": WHEN, "derivation": "SAM, 1 object"} | changes
    return secondary_capture(rgb, source=source, **arguments)


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small.dcm", "ExplVR_BigEnd.dcm", "693_J2KI.dcm", "rtdose.dcm", "SC_rgb_small_odd.dcm", None],
)
def test_dciodvfy_finds_no_error(sample, dciodvfy, tmp_path, name: str | None) -> None:
    image = read_image(sample(name)) if name else None
    source = image.datasets[0] if image else None
    write(capture(source, image.frame_size if image else (37, 41)), tmp_path / "sc.dcm")
    assert dciodvfy(tmp_path / "sc.dcm") == []


def test_pixels_come_back(make_ct, save, tmp_path) -> None:
    rgb = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)  # an odd number of bytes
    write(
        secondary_capture(rgb, source=None, series_description="", instance_time=WHEN, derivation=""), tmp_path / "sc"
    )
    np.testing.assert_array_equal(read_image(tmp_path / "sc").frames[0], rgb)
    np.testing.assert_array_equal(pydicom.dcmread(tmp_path / "sc").pixel_array, rgb)


def test_it_belongs_to_the_sources_study_but_is_a_new_series(make_ct, gradient) -> None:
    source = make_ct(gradient, BurnedInAnnotation="NO", StudyDescription="Abdomen", PatientAge="056Y")
    one, two = capture(source), capture(source)
    for keyword in ("StudyInstanceUID", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate"):
        assert one[keyword].value == source[keyword].value != ""
    assert (one.StudyDescription, one.PatientAge, one.BurnedInAnnotation) == ("Abdomen", "056Y", "NO")
    assert len({source.SeriesInstanceUID, one.SeriesInstanceUID, two.SeriesInstanceUID}) == 3
    assert len({source.SOPInstanceUID, one.SOPInstanceUID, two.SOPInstanceUID}) == 3
    (reference,) = one.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == source.SOPClassUID and "ReferencedFrameNumber" not in reference
    assert [float(value) for value in one.PixelSpacing] == [0.5, 0.25]
    assert (one.ConversionType, one.Modality) == ("WSD", "OT")
    assert (one.ContentDate, one.ContentTime) == ("20260102", "030405.678901")


def test_no_patient_is_made_up() -> None:
    one, two = capture(None), capture(None)
    for keyword in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "AccessionNumber"):
        assert one[keyword].value == ""
    assert one.StudyInstanceUID != two.StudyInstanceUID
    assert "SourceImageSequence" not in one and "BurnedInAnnotation" not in one


def test_unknown_burned_in_annotation_stays_unknown(make_ct, gradient) -> None:
    assert "BurnedInAnnotation" not in capture(make_ct(gradient))
    assert capture(make_ct(gradient, BurnedInAnnotation="YES")).BurnedInAnnotation == "YES"


def test_the_frame_of_a_multi_frame_is_referenced(make_ct) -> None:
    source = make_ct(np.zeros((4, 5, 7), np.uint8))
    assert capture(source, frame=2).SourceImageSequence[0].ReferencedFrameNumber == 3


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Jörg"),
        ("ISO_IR 192", "Müller^Jörg"),
        (["", "ISO 2022 IR 87"], JAPANESE),
        ("ISO_IR 192", JAPANESE),
        ("GB18030", "Wang^XiaoDong=王^小东"),
    ],
)
def test_names_survive_in_utf_8(make_ct, gradient, charset, name: str) -> None:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99X", "Größe" if "ü" in name else "Size"
    dataset = make_ct(
        gradient,
        SpecificCharacterSet=charset,
        PatientName=name,
        OtherPatientNames=[name, name],
        ProcedureCodeSequence=[code],
    )
    source = read_dataset(to_bytes(dataset))  # so that names are stored as bytes in the source's character set
    result = read_dataset(to_bytes(capture(source, series_description="Überlagerung 重ね")))
    assert result.SpecificCharacterSet == "ISO_IR 192"
    assert str(result.PatientName) == name and [str(other) for other in result.OtherPatientNames] == [name, name]
    assert result.SeriesDescription == "Überlagerung 重ね"
    assert result.ProcedureCodeSequence[0].CodeMeaning == code.CodeMeaning


CHARSETS = {
    "chrArab": "قباني^لنزار",
    "chrFren": "Buc^Jérôme",
    "chrGerm": "Äneas^Rüdiger",
    "chrGreek": "Διονυσιος",
    "chrH31": "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "chrH32": "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう",
    "chrHbrw": "שרון^דבורה",
    "chrI2": "Hong^Gildong=洪^吉洞=홍^길동",
    "chrRuss": "Люкceмбypг",
    "chrX1": "Wang^XiaoDong=王^小東",
    "chrX2": "Wang^XiaoDong=王^小东",
}
"""pydicom's example files from DICOM PS3.5 annexes H to J, with the names that they contain."""


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("kind", ["Secondary Capture", "Segmentation"])
@pytest.mark.parametrize(("file", "name"), CHARSETS.items())
def test_the_standards_own_examples_of_names_survive(
    make_ct, gradient, dciodvfy, tmp_path, file: str, name: str, kind: str
) -> None:
    """Read a file in the source's character set, like a route does, and validate the result."""
    folder = Path(pydicom.__file__).parent / "data" / "charset_files"
    example = pydicom.dcmread(folder / f"{file}.dcm", force=True)
    dataset = make_ct(gradient)
    dataset.SpecificCharacterSet = example.SpecificCharacterSet
    dataset[Tag("PatientName")] = example.get_item("PatientName")
    source = read_dataset(to_bytes(dataset))
    if kind == "Segmentation":
        labels = np.ones(gradient.shape, np.uint8)
        result = segmentation(
            labels,
            source=source,
            frame=0,
            segment_labels=["肝臓"],
            algorithm_name="sam_tiny",
            algorithm_version="1",
            instance_time=WHEN,
        )
    else:
        result = capture(source)
    write(result, tmp_path / "made.dcm")
    assert dciodvfy(tmp_path / "made.dcm") == []
    again = pydicom.dcmread(tmp_path / "made.dcm")
    assert again.SpecificCharacterSet == "ISO_IR 192"
    assert str(again.PatientName) == name
    assert name.encode() in (tmp_path / "made.dcm").read_bytes()


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_what_the_standard_forbids_becomes_empty(make_ct, gradient) -> None:
    source = make_ct(gradient, PatientSex="U", PatientBirthDate="unknown", StudyTime="12:00:00")
    result = capture(source)
    assert (result.PatientSex, result.PatientBirthDate, result.StudyTime) == ("", "", "")


def test_source_and_result_share_nothing(make_ct, gradient) -> None:
    code = Dataset()
    code.CodeMeaning = "before"
    source = make_ct(
        gradient, ProcedureCodeSequence=[code], LossyImageCompression="01", LossyImageCompressionMethod=["A"]
    )
    before = copy.deepcopy(source)
    result = capture(source)
    assert source == before
    result.ProcedureCodeSequence[0].CodeMeaning = "after"
    result.PatientName = "Other"
    assert source == before


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 3), float),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
    ],
)
def test_other_arrays_are_refused(rgb: np.ndarray) -> None:
    with pytest.raises(ValueError, match="picture"):
        secondary_capture(rgb, source=None, series_description="", instance_time=WHEN, derivation="")


def test_long_texts_are_refused() -> None:
    with pytest.raises(ValueError, match="64"):
        capture(None, series_description="x" * 65)
