"""Stored labels on the voxels of their image, and labels that a page stores, in this process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import nibabel
import nrrd
import numpy as np
import pydicom
import pytest
from monailabel.interfaces.utils.app import app_instance

from lib.dicomweb.dicom_seg import segmentation_of_labels
from lib.imaging.dicom.data_sets import write
from lib.imaging.dicom.reader import read_series_grid
from lib.imaging.formats.nifti import write_nifti
from lib.imaging.labels.series_segmentation import series_segmentation
from lib.imaging.readers import read_image
from lib.trainers.accepted_labels import accepted_labels
from support.page_label import page_nifti, received, some_labels
from support.phantoms import BALL_AFFINE, ball_volume
from support.rest import png
from support.series import ACQUISITIONS, TILTED, write_series
from support.served_app import LABELLER, OTHER, TRAINER, ServedApp, served_app

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of MONAI Label's route that stores a label
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EVERY = [*ACQUISITIONS, *TILTED]
INFO = {"label_info": [{"name": "liver", "idx": 1}, {"name": "Läsion 中", "idx": 3}, {"name": "spleen", "idx": 7}]}
NAMES = [(1, "liver"), (2, "Label 2"), (3, "Läsion 中"), (7, "spleen")]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[ServedApp]:
    with served_app(tmp_path_factory.mktemp("labels") / "app") as one:
        for name in ("ball", "ball2"):
            nibabel.Nifti1Image(ball_volume()[0], BALL_AFFINE).to_filename(one.studies / f"{name}.nii.gz")
        (one.studies / "picture.png").write_bytes(png(np.arange(30 * 40, dtype=np.uint16).reshape(30, 40).astype("u1")))
        for name in ("CT_small.dcm", "rtdose.dcm", "SC_rgb_rle_2frame.dcm"):
            content = Path(str(pydicom.data.get_testdata_file(name, download=False))).read_bytes()
            (one.studies / name).write_bytes(content)
        yield one


def put(
    served: ServedApp, image: str, content: bytes, tag: str = "final", name: str = "label.nii.gz", info=INFO
) -> None:
    done = served.ask(
        "PUT",
        f"/datastore/label?image={image}&tag={tag}",
        LABELLER,
        files={"label": (name, content)},
        data={"params": json.dumps(info)},
    )
    assert done.status_code == 200, done.text


def by_hand(served: ServedApp, image: str, name: str, tag: str = "final") -> Path:
    """Where a label is put that no route would store."""
    folder = served.studies / "labels" / tag
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob(f"{image}.*"):
        old.unlink()
    return folder / name


def round_trip(served: ServedApp, image: str, tag: str) -> None:
    facts = served.get(f"/images/{image}").json()
    labels = some_labels(facts["shape"])
    put(served, image, page_nifti(labels, facts["affine"]), tag)
    voxels, names = received(served.get(f"/images/{image}/labels/{tag}?version={facts['version']}"))
    assert voxels.dtype == np.uint8
    np.testing.assert_array_equal(voxels, labels)
    assert [(one["idx"], one["name"]) for one in names] == NAMES


@pytest.mark.parametrize("acquisition", EVERY, ids=lambda acquisition: acquisition.name)
def test_what_a_page_stores_comes_back_on_the_same_voxels(served, tmp_path, acquisition):
    write_series(tmp_path, acquisition)
    image = f"acquired-{EVERY.index(acquisition)}"
    write_nifti(read_image(tmp_path), served.studies / f"{image}.nii.gz")
    round_trip(served, image, "final")


@pytest.mark.parametrize("image", ["picture", "CT_small", "rtdose", "SC_rgb_rle_2frame"])
@pytest.mark.parametrize("tag", ["final", "draft", "draft of Ann", "original"])
def test_also_where_the_image_has_no_place_or_several_frames_and_under_each_tag(served, image, tag):
    round_trip(served, image, tag)


def test_only_a_final_label_is_accepted(served):
    facts = served.get("/images/ball2").json()
    for tag in ("draft", "original"):
        put(served, "ball2", page_nifti(some_labels(facts["shape"]), facts["affine"]), tag)
    datastore = app_instance().datastore()
    label = "labels/{}/ball2.nii.gz"
    assert not any(str(one.label).endswith(label.format("final")) for one in accepted_labels(datastore))
    assert "ball2" in datastore.get_unlabeled_images() and "ball2" not in datastore.get_labeled_images()
    put(served, "ball2", page_nifti(some_labels(facts["shape"]), facts["affine"]), "final")
    accepted = [one for one in accepted_labels(datastore) if one.image.name == "ball2.nii.gz"]
    assert [one.names for one in accepted] == [{1: "liver", 3: "Läsion 中", 7: "spleen"}]


@pytest.mark.parametrize("kind", ["nii, axes turned", "nrrd", "raw", "float"])
def test_whatever_it_was_saved_as_it_is_on_the_image_s_own_voxels(served, tmp_path, kind):
    labels = some_labels((64, 48, 16))
    if kind == "nii, axes turned":
        turned = nibabel.Nifti1Image(labels, BALL_AFFINE).as_reoriented([[1, -1], [2, 1], [0, -1]])
        assert turned.shape == (16, 64, 48)
        name, content = "a.nii", turned.to_bytes()
    elif kind == "nrrd":
        lps = np.diag([-1, -1, 1, 1]) @ BALL_AFFINE
        header = {"space": "left-posterior-superior", "space directions": lps[:3, :3].T, "space origin": lps[:3, 3]}
        nrrd.write(str(tmp_path / "a.nrrd"), labels, header)
        name, content = "a.nrrd", (tmp_path / "a.nrrd").read_bytes()
    elif kind == "raw":
        name, content = "a.bin", labels.tobytes(order="F")
    else:
        name, content = "a.nii", nibabel.Nifti1Image(labels.astype(np.float32), BALL_AFFINE).to_bytes()
    put(served, "ball", content, name=name)
    voxels, _ = received(served.get("/images/ball/labels/final"))
    np.testing.assert_array_equal(voxels, labels)
    assert voxels.dtype == np.uint8


def test_a_picture_s_label_may_be_a_picture(served):
    labels = some_labels((40, 30, 1))
    put(served, "picture", png(labels[..., 0].T), name="a.png")
    np.testing.assert_array_equal(received(served.get("/images/picture/labels/final"))[0], labels)


def test_many_numbers_are_16_bits_and_not_all_are_listed(served):
    labels = np.arange(64 * 48 * 16, dtype=np.uint16).reshape(64, 48, 16) % 700
    put(served, "ball", nibabel.Nifti1Image(labels, BALL_AFFINE).to_bytes(), name="a.nii", info={})
    answer = served.get("/images/ball/labels/final")
    voxels, names = received(answer)
    np.testing.assert_array_equal(voxels, labels)
    assert voxels.dtype == np.uint16 and names[:2] == [{"idx": 1, "name": "Label 1"}, {"idx": 2, "name": "Label 2"}]
    assert len(names) == 500 and json.loads(answer.headers["SAM-Notes"]) == [
        "only the first 500 of 699 labels are listed"
    ]


def test_of_overlapping_segments_the_highest_is_shown_and_a_note_says_so(served):
    source = pydicom.dcmread(served.studies / "CT_small.dcm")
    labels = some_labels((128, 128, 1))[..., 0].T[None]
    made = series_segmentation(
        labels,
        sources=[source],
        segment_labels=["one", "two", "three"],
        algorithm_name="model",
        algorithm_version="1",
        instance_time=pydicom.valuerep.DT("20260101120000"),
    )
    write(made, by_hand(served, "CT_small", "CT_small.dcm"))
    answer = served.get("/images/CT_small/labels/final")
    voxels, names = received(answer)
    np.testing.assert_array_equal(voxels[..., 0].T, labels[0])
    assert [one["name"] for one in names] == ["one", "two", "three"] and "SAM-Notes" not in answer.headers
    bits = bytearray(made.PixelData)
    bits[: 128 * 128 // 8] = b"\xff" * (128 * 128 // 8)  # the first segment is everywhere
    made.PixelData = bytes(bits)
    write(made, by_hand(served, "CT_small", "CT_small.dcm"))
    answer = served.get("/images/CT_small/labels/final")
    voxels, names = received(answer)
    np.testing.assert_array_equal(voxels[..., 0].T, np.where(labels[0] > 1, labels[0], 1))
    assert "overlap" in json.loads(answer.headers["SAM-Notes"])[0]


@pytest.mark.parametrize(
    ("name", "content", "status", "said"),
    [
        ("ball.nii", nibabel.Nifti1Image(np.zeros((64, 48, 15), "u1"), BALL_AFFINE).to_bytes(), 422, "do not lie on"),
        ("ball.nii", nibabel.Nifti1Image(np.zeros((64, 48, 16), "u1"), np.eye(4)).to_bytes(), 422, "do not lie on"),
        ("ball.nii", nibabel.Nifti1Image(np.full((64, 48, 16), 0.5, "f4"), BALL_AFFINE).to_bytes(), 415, "whole"),
        ("ball.nii", nibabel.Nifti1Image(np.full((64, 48, 16), -1, "i2"), BALL_AFFINE).to_bytes(), 415, "whole"),
        ("ball.nii", nibabel.Nifti1Image(np.full((64, 48, 16), 70000, "i4"), BALL_AFFINE).to_bytes(), 415, "whole"),
        ("ball.png", png(np.zeros((48, 64, 3), np.uint8)), 422, "not colours"),
        ("ball.json", b"{}", 415, "regions of interest"),
        ("ball.nii.gz", b"\x1f\x8b", 415, "found"),
    ],
)  # fmt: skip
def test_what_is_no_label_of_the_image_says_why(served, name, content, status, said):
    by_hand(served, "ball", name, "odd").write_bytes(content)
    refused = served.get("/images/ball/labels/odd")
    assert refused.status_code == status and said in refused.json()["detail"], refused.text
    assert str(served.folder) not in refused.text
    by_hand(served, "ball", name, "odd")


def test_what_is_not_there_and_who_may_see_it(served):
    round_trip(served, "ball", "final")
    for path, status in (
        ("/images/ball/labels/none", 404),
        ("/images/none/labels/final", 404),
        ("/images/ball/labels/..%2ffinal", 404),
        ("/images/ball/labels/.hidden", 422),
        ("/images/ball/labels/final?version=other", 409),
    ):
        refused = served.get(path)
        assert refused.status_code == status and refused.json()["detail"], path
    for user, status in ((None, 401), (TRAINER, 403), (OTHER, 200)):
        assert served.get("/images/ball/labels/final", user).status_code == status
    assert served.audited("/images/{image}/labels/{tag}")[-1]["image_sha256"]


def test_who_stored_a_label_is_known_whatever_the_client_says(served):
    labels = some_labels(ball_volume()[0].shape)
    put(served, "ball", page_nifti(labels, BALL_AFFINE.tolist()), info={**INFO, "reviewer": "somebody else"})
    kept = app_instance().datastore().get_label_info("ball", "final")
    assert kept["reviewer"] == f"key:{LABELLER}"


def test_a_segmentation_names_who_stored_it(tmp_path):
    (source,) = write_series(tmp_path, ACQUISITIONS[0])[:1]
    grid = read_series_grid(source)
    (tmp_path / "label.png").write_bytes(png(np.pad(np.ones((9, 9), np.uint8), ((20, 59), (30, 65)))))
    made = segmentation_of_labels(grid, tmp_path / "label.png", INFO["label_info"], reviewer="key:doe")
    assert made.ContentCreatorName == "key:doe"
    assert "ContentCreatorName" not in segmentation_of_labels(grid, tmp_path / "label.png", INFO["label_info"])
