"""Labels of series on a real DICOMweb server: asked for as DICOM SEG, stored there, and read back from there."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import requests
from dicomweb_client import DICOMwebClient
from monailabel.client.client import MONAILabelClient, MONAILabelClientException

from lib.imaging.dicom.data_sets import write
from lib.imaging.dicom.reader import read_dicom_headers
from lib.imaging.labels.series_segmentation import series_segmentation
from support.orthanc import Orthanc, running_orthanc
from support.page_label import page_nifti, received, some_labels
from support.patient import centroid, voxel_at
from support.series import ACQUISITIONS, LANDMARK, TILTED, write_series
from support.server_process import Server, running_server

pytestmark = [
    pytest.mark.server,
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of monailabel.client, as in test_monailabel_client
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ACQUIRED = {a.name: a for a in (*ACQUISITIONS, *TILTED)}
NAMES = ["axial, files in reverse", "double oblique sagittal", "coronal", "gantry tilted by 18 degrees"]


@dataclass
class Stored:
    """A series on the server, and its files here."""

    folder: Path
    headers: list[pydicom.Dataset]

    @property
    def series(self) -> str:
        return str(self.headers[0].SeriesInstanceUID)

    @property
    def study(self) -> str:
        return str(self.headers[0].StudyInstanceUID)


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory) -> Iterator[Orthanc]:
    with running_orthanc(tmp_path_factory.mktemp("orthanc") / "store") as running:
        yield running


@pytest.fixture(scope="module")
def stored(tmp_path_factory, orthanc: Orthanc) -> dict[str, Stored]:
    found = {}
    for name in NAMES:
        folder = tmp_path_factory.mktemp("acquired")
        files = write_series(folder, ACQUIRED[name])
        orthanc.store(*files)
        found[name] = Stored(folder, [pydicom.dcmread(file, stop_before_pixels=True) for file in files])
    return found


@pytest.fixture(scope="module")
def dicomweb(tmp_path_factory, orthanc: Orthanc, stored) -> Iterator[Server]:
    """A server whose images are on Orthanc."""
    folder = tmp_path_factory.mktemp("dicomweb")
    variables = {"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache")}
    with running_server(folder, studies=orthanc.dicomweb, variables=variables) as server:
        yield server


@pytest.fixture
def client(dicomweb: Server, tmp_path) -> MONAILabelClient:
    return MONAILabelClient(dicomweb.url, tmpdir=str(tmp_path))


def ask_for_seg(server: Server, query: str, params: dict) -> requests.Response:
    return server.post(f"/infer/sam_tiny?{query}&output=dicom_seg", data={"params": json.dumps(params)})


def image_of(server: Server, series: str, folder: Path) -> nibabel.Nifti1Image:
    """What Slicer gets: the series as NIfTI."""
    path = folder / "image.nii.gz"
    path.write_bytes(server.get(f"/datastore/image?image={series}").content)
    return nibabel.load(path)


def segmentations(orthanc: Orthanc, source: Stored, folder: Path) -> list[highdicom.seg.Segmentation]:
    """Those in the study of a series, oldest first, by WADO-RS."""
    web = DICOMwebClient(orthanc.dicomweb)
    instances = web.retrieve_study(source.study, media_types=(("application/dicom", "*"),))
    found = []
    for number, instance in enumerate(one for one in instances if one.Modality == "SEG"):
        path = folder / f"stored{number}.dcm"
        instance.save_as(path, enforce_file_format=True)
        found.append(highdicom.seg.segread(path))
    return sorted(found, key=lambda one: (one.ContentDate, one.ContentTime))


@pytest.mark.parametrize("name", NAMES)
def test_a_click_is_answered_with_a_segmentation_where_it_was(dicomweb, stored, dciodvfy, tmp_path, name):
    source = stored[name]
    click = voxel_at(source.folder, LANDMARK)
    answer = ask_for_seg(dicomweb, f"image={source.series}", {"foreground": [click], "label": "left kidney"})
    assert answer.status_code == 200 and answer.headers["content-type"] == "application/dicom", answer.text
    path = tmp_path / "seg.dcm"
    path.write_bytes(answer.content)
    assert dciodvfy(path) == []
    assert np.linalg.norm(centroid(path) - LANDMARK) < 1.0

    found = highdicom.seg.segread(path)
    assert (found.StudyInstanceUID, found.PatientID) == (source.study, source.headers[0].PatientID)
    assert found.FrameOfReferenceUID == source.headers[0].FrameOfReferenceUID
    referenced = found.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert {one.ReferencedSOPInstanceUID for one in referenced} == {one.SOPInstanceUID for one in source.headers}
    (segment,) = found.SegmentSequence
    assert (segment.SegmentLabel, segment.SegmentAlgorithmName) == ("left kidney", "sam_tiny")
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Kidney"


def test_a_session_of_dicom_files_too(dicomweb, stored, client, tmp_path):
    source = stored["coronal"]
    files = [str(file) for file in sorted(source.folder.iterdir())]
    uploads = [("files", (Path(file).name, Path(file).read_bytes())) for file in files]
    session = requests.put(f"{dicomweb.url}/session/", files=uploads, timeout=60).json()["session_id"]
    click = voxel_at(source.folder, LANDMARK)
    answer = ask_for_seg(dicomweb, f"session_id={session}", {"foreground": [click]})
    assert answer.status_code == 200, answer.text
    (tmp_path / "seg.dcm").write_bytes(answer.content)
    assert np.linalg.norm(centroid(tmp_path / "seg.dcm") - LANDMARK) < 1.0
    client.remove_session(session)


def test_what_is_no_dicom_cannot_be_answered_as_one(server):
    answer = ask_for_seg(server, "image=ball", {"foreground": [[30, 24, 7]]})
    assert answer.status_code == 422 and "DICOM" in answer.json()["detail"]


def two_labels(shape: tuple[int, ...]) -> np.ndarray:
    """``[i, j, k]``: blocks of 2 and of 5, no two alike, on different slices."""
    labels = np.zeros(shape, np.uint8)
    labels[20:40, 30:35, 3:6] = 2
    labels[70:80, 10:50, 5:9] = 5
    return labels


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_label_is_in_the_study_and_comes_back_bit_for_bit(
    dicomweb, orthanc, stored, client, dciodvfy, tmp_path, name
):
    source = stored[name]
    image = image_of(dicomweb, source.series, tmp_path)
    labels = two_labels(image.shape)
    nibabel.Nifti1Image(labels, image.affine).to_filename(tmp_path / "label.nii.gz")
    info = [{"name": "liver", "idx": 2}, {"name": "not there", "idx": 3}, {"name": "spleen", "idx": 5}]
    client.save_label(source.series, str(tmp_path / "label.nii.gz"), params={"label_info": info})

    found = segmentations(orthanc, source, tmp_path)[-1]
    assert dciodvfy(tmp_path / "stored0.dcm") == []
    assert [segment.SegmentLabel for segment in found.SegmentSequence] == ["liver", "spleen"]
    order = image_order(source)
    pixels = found.get_pixels_by_source_instance(order, combine_segments=True, assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(pixels.T, np.searchsorted([0, 2, 5], labels))

    listed = dicomweb.get("/datastore/?output=all").json()["objects"][source.series]["labels"]["final"]["info"]
    assert listed["SeriesInstanceUID"] == found.SeriesInstanceUID
    saved = nibabel.load(client.download_label(source.series, "final"))
    np.testing.assert_array_equal(np.asarray(saved.dataobj), labels)
    np.testing.assert_allclose(saved.affine, image.affine, atol=1e-4)


def image_order(source: Stored) -> list[str]:
    """The instances along the normal, as ``k`` counts them."""

    def height(header: pydicom.Dataset) -> float:
        row, column = np.array(header.ImageOrientationPatient, float).reshape(2, 3)
        return float(np.cross(row, column) @ np.array(header.ImagePositionPatient, float))

    return [str(header.SOPInstanceUID) for header in sorted(source.headers, key=height)]


def test_saving_makes_an_image_count_as_labelled(dicomweb, stored):
    status = dicomweb.get("/info/").json()["datastore"]
    assert status["total"] == len(NAMES) and status["completed"] == len(NAMES)


def test_a_label_that_is_only_on_the_server_is_fetched(dicomweb, orthanc, stored, client, tmp_path):
    """As after another server stored it: the copy here is gone."""
    source = stored["coronal"]
    labels = two_labels(image_of(dicomweb, source.series, tmp_path).shape)
    gone = requests.delete(f"{dicomweb.url}/datastore/label?id={source.series}&tag=final", timeout=30)
    assert gone.status_code == 200
    saved = nibabel.load(client.download_label(source.series, "final"))
    np.testing.assert_array_equal(np.asarray(saved.dataobj), np.searchsorted([0, 2, 5], labels))
    info = dicomweb.get(f"/datastore/label/info?label={source.series}&tag=final").json()
    assert info["label_info"] == [{"name": "liver", "idx": 1}, {"name": "spleen", "idx": 2}]


def test_an_empty_mask_is_stored_as_one_empty_frame(dicomweb, orthanc, stored, client, dciodvfy, tmp_path):
    source = stored["coronal"]
    image = image_of(dicomweb, source.series, tmp_path)
    nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine).to_filename(tmp_path / "empty.nii.gz")
    params = {"label_info": [{"name": "lesion", "idx": 1}]}
    client.save_label(source.series, str(tmp_path / "empty.nii.gz"), params=params)
    found = segmentations(orthanc, source, tmp_path)[-1]
    assert found.NumberOfFrames == 1 and not found.pixel_array.any()
    assert found.SegmentSequence[0].SegmentLabel == "lesion"
    for path in tmp_path.glob("stored*.dcm"):
        assert dciodvfy(path) == []


def test_labels_in_other_axes_are_brought_into_the_series_own(dicomweb, orthanc, stored, client, tmp_path):
    source = stored["double oblique sagittal"]
    image = image_of(dicomweb, source.series, tmp_path)
    labels = two_labels(image.shape)
    nibabel.as_closest_canonical(nibabel.Nifti1Image(labels, image.affine)).to_filename(tmp_path / "ras.nii.gz")
    client.save_label(source.series, str(tmp_path / "ras.nii.gz"))
    found = segmentations(orthanc, source, tmp_path)[-1]
    pixels = found.get_pixels_by_source_instance(
        image_order(source), combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels.T, np.searchsorted([0, 2, 5], labels))


def test_labels_that_do_not_lie_on_the_series_are_refused(dicomweb, orthanc, stored, client, tmp_path):
    source = stored["axial, files in reverse"]
    image = image_of(dicomweb, source.series, tmp_path)
    moved = image.affine.copy()
    moved[2, 3] += 3
    nibabel.Nifti1Image(two_labels(image.shape), moved).to_filename(tmp_path / "moved.nii.gz")
    before = len(segmentations(orthanc, source, tmp_path))
    with pytest.raises(MONAILabelClientException) as refused:
        client.save_label(source.series, str(tmp_path / "moved.nii.gz"))
    assert "422" in str(refused.value) and "do not lie on" in str(refused.value)
    assert len(segmentations(orthanc, source, tmp_path)) == before


def test_raw_voxels_are_taken_too(dicomweb, orthanc, stored, client, tmp_path):
    source = stored["gantry tilted by 18 degrees"]
    labels = two_labels(image_of(dicomweb, source.series, tmp_path).shape)
    (tmp_path / "label.bin").write_bytes(labels.tobytes(order="F"))
    client.save_label(source.series, str(tmp_path / "label.bin"))
    pixels = segmentations(orthanc, source, tmp_path)[-1].get_pixels_by_source_instance(
        image_order(source), combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(pixels.T, np.searchsorted([0, 2, 5], labels))


@pytest.mark.parametrize("tag", ["draft", "final"])
@pytest.mark.parametrize("name", NAMES)
def test_what_a_page_stores_comes_back_on_the_same_voxels(dicomweb, orthanc, stored, tmp_path, name, tag):
    series = stored[name].series
    before = len(segmentations(orthanc, stored[name], tmp_path))
    facts = dicomweb.get(f"/images/{series}").json()
    labels = some_labels(facts["shape"])
    params = {"label_info": [{"name": "ball", "idx": 3}]}
    form = {
        "files": {"label": ("a.nii.gz", page_nifti(labels, facts["affine"]))},
        "data": {"params": json.dumps(params)},
    }
    requests.put(f"{dicomweb.url}/datastore/label?image={series}&tag={tag}", timeout=60, **form).raise_for_status()
    voxels, names = received(dicomweb.get(f"/images/{series}/labels/{tag}"))
    np.testing.assert_array_equal(voxels, labels)
    assert [one["name"] for one in names] == ["Label 1", "Label 2", "ball"]
    assert len(segmentations(orthanc, stored[name], tmp_path)) == before + (tag == "final")


def test_overlapping_segments_of_another_program_are_kept_and_the_highest_is_shown(dicomweb, orthanc, stored, tmp_path):
    source = stored["axial, files in reverse"]
    headers = read_dicom_headers(source.folder)
    labels = some_labels((104, 88, 20)).T
    made = series_segmentation(
        labels,
        sources=headers,
        segment_labels=["one", "two", "three"],
        algorithm_name="another",
        algorithm_version="1",
        instance_time=datetime(2099, 1, 1),
    )
    made.PixelData = b"\xff" * len(made.PixelData)
    write(made, tmp_path / "overlapping.dcm")
    orthanc.store(tmp_path / "overlapping.dcm")
    requests.delete(f"{dicomweb.url}/datastore/label?id={source.series}&tag=final", timeout=30).raise_for_status()
    for _ in range(2):  # fetched, and as it is here then
        answer = dicomweb.get(f"/images/{source.series}/labels/final")
        voxels, names = received(answer)
        highest = np.max([np.where((labels == n).any(axis=(1, 2)), n, 0) for n in (1, 2, 3)], axis=0)
        np.testing.assert_array_equal(voxels.T, np.broadcast_to(highest[:, None, None], labels.shape))
        assert [one["name"] for one in names] == ["one", "two", "three"]
        assert "overlap" in json.loads(answer.headers["SAM-Notes"])[0]
    kept = dicomweb.get(f"/datastore/label?label={source.series}&tag=final")
    assert pydicom.dcmread(io.BytesIO(kept.content)).SOPInstanceUID == made.SOPInstanceUID
