"""``scripts/evaluate --volumes``: the layouts, the simulated user, the areas under the curve, and the whole."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from evaluation import volumes
from evaluation.baselines import ellipsoid_in_box
from evaluation.cases import CaseError
from evaluation.main import main
from lib.imaging.dicom.data_sets import to_bytes
from lib.imaging.dicom.reader import read_series_grid
from lib.imaging.image import MedicalImage
from lib.imaging.labels.series_segmentation import series_segmentation
from support.series import Acquisition, voxels, write_series

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")


class Asked:
    """Notes what the user asks, and returns the masks that it is given."""

    def __init__(self, *masks: np.ndarray) -> None:
        self.masks, self.asked = list(masks), []

    def click(self, k: int, click: tuple) -> np.ndarray:
        self.asked.append((k, *click))
        return self.masks.pop(0)

    def box(self, box: np.ndarray, first: int, last: int) -> np.ndarray:
        self.asked.append((*box, first, last))
        return self.masks.pop(0)


def bar(*slices: int) -> np.ndarray:
    mask = np.zeros((6, 20, 20), dtype=bool)
    mask[list(slices), 5:10, 4:14] = True
    return mask


def a_case(truth: np.ndarray) -> volumes.VolumeCase:
    image = MedicalImage(frames=np.where(truth, 200, 50).astype(np.uint8))
    return volumes.VolumeCase("a bar", "bar", image, truth, (3.0, 1.0, 1.0), ())


def test_corrections_go_to_the_slice_that_is_most_wrong():
    truth = bar(1, 2, 3)
    truth[2, 10] = truth[2, 9]
    too_much = truth | bar(4)
    missed = truth & ~bar(1)
    asked = Asked(too_much, missed, truth)
    rows = list(volumes.corrections(a_case(truth), asked))
    assert [row for row, _ in rows] == [f"box, corrections {n}" for n in range(1, 6)]
    assert asked.asked[0] == (4, 5, 14, 11, 2, 2), "a tight box on the largest slice"
    assert [(k, label) for k, _, _, label in asked.asked[1:]] == [(4, 0), (1, 1)], "beside it on 4, on it on 1"
    assert all(np.array_equal(mask, truth) for _, mask in rows[1:]), "the last answer stands where nothing is wrong"


def test_a_box_in_space_reaches_over_the_objects_slices():
    asked = Asked(bar(1, 2, 3))
    (_, mask), (row, ellipsoid) = volumes.box_in_space(a_case(bar(1, 2, 3)), asked)
    assert asked.asked == [(4, 5, 14, 10, 1, 3)] and mask.any() and row == "3D box: ellipsoid"
    assert ellipsoid.any(axis=(1, 2)).tolist() == [False, True, True, True, False, False]


def test_an_ellipsoid_has_its_volume():
    found = ellipsoid_in_box((60, 50, 70), np.array([10, 5, 60, 45]), 10, 50)
    assert found.sum() == pytest.approx(4 / 3 * np.pi * 25 * 20 * 20, rel=0.01)


def test_areas_are_those_of_the_challenge():
    assert volumes.area_under_curve([1.0] * 5) == 4
    assert volumes.area_under_curve([0.5, 0.6, 0.7, 0.8, 0.9]) == pytest.approx(2.8)


def nifti_folder(folder: Path) -> Path:
    k, j, i = np.indices((12, 64, 72))
    truth = ((k - 6) / 4.2) ** 2 + ((j - 30) / 14) ** 2 + ((i - 40) / 18) ** 2 <= 1
    noise = np.random.default_rng(0).normal(0, 4, truth.shape)
    values = (np.where(truth, 170, 70) + noise).round().astype(np.int16)
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    for name, frames in (("images", values), ("labels", truth.astype(np.uint8))):
        (folder / name).mkdir(parents=True)
        nibabel.Nifti1Image(frames.transpose(2, 1, 0), affine).to_filename(folder / name / "a.nii.gz")
    return folder


def test_objects_of_few_slices_are_left_out(tmp_path):
    [case] = volumes.find_volume_cases(nifti_folder(tmp_path / "whole"))
    assert case.spacing == (3.0, 1.0, 1.0) and case.largest == 6 and case.files[0].name == "a.nii.gz"
    for name in ("images", "labels"):
        (tmp_path / "flat" / name).mkdir(parents=True)
        nibabel.Nifti1Image(np.ones((9, 9, 2), np.uint8), np.eye(4)).to_filename(tmp_path / "flat" / name / "a.nii.gz")
    with pytest.raises(CaseError, match="three or more slices"):
        volumes.find_volume_cases(tmp_path / "flat")


@pytest.mark.parametrize("reversed_files", [False, True])
def test_the_masks_of_a_series_lie_on_its_slices_whatever_their_order(tmp_path, reversed_files):
    acquisition = Acquisition("any", reversed_files=reversed_files)
    write_series(tmp_path / "study", acquisition)
    values, truth = voxels(acquisition)
    grid = read_series_grid(tmp_path / "study")
    in_order = truth if np.allclose(grid.affine[2, 2], 3) else truth[::-1]
    made = series_segmentation(
        in_order.astype(np.uint8),
        sources=grid.sources,
        segment_labels=["ball"],
        algorithm_name="a",
        algorithm_version="1",
        instance_time=datetime(2026, 1, 1),
    )
    (tmp_path / "study" / "a seg.dcm").write_bytes(to_bytes(made))
    [case] = volumes.find_volume_cases(tmp_path)
    assert case.label == "ball" and case.spacing == pytest.approx((3, 1, 1)) and len(case.files) == len(values)
    inside = case.image.frames[case.truth]
    assert inside.mean() == pytest.approx(90, abs=2) and case.truth.sum() == truth.sum()


@pytest.mark.slow
def test_the_whole_through_the_engine(tmp_path, capsys):
    folder = nifti_folder(tmp_path / "data")
    assert main([str(folder), "--volumes", "--out", str(tmp_path / "out"), "--pictures", "1"]) == 0
    printed = capsys.readouterr().out
    for row in ("one click", "one box: ellipsoid", "3D box", "corrections 2", "box, corrections 5"):
        assert f"\n{row} " in printed
    figures = json.loads((tmp_path / "out" / "results.json").read_text())
    dice = {line["row"]: line["dice"]["mean"] for line in figures["summary"]}
    assert dice["one box"] > 0.9 and dice["3D box"] > 0.9
    areas = {line["row"]: line for line in figures["areas_under_curve"]}
    assert areas["box, corrections"]["dice_auc"] > 3.6 and areas["corrections"]["nsd_auc"] > 3
    assert "DSC_AUC" in printed
    picture = np.asarray(Image.open(tmp_path / "out" / "pictures" / "one-box-worst.png"))
    assert picture.shape == (960, 320, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


def test_a_server_is_not_asked_for_volumes(tmp_path, capsys):
    folder = nifti_folder(tmp_path)
    assert main([str(folder), "--volumes", "--server", "http://127.0.0.1:1"]) == 2
    assert "leave --server out" in capsys.readouterr().err
    assert main([str(folder), "--volumes", "--protocols", "jitter"]) == 2
    assert "there is no protocol 'jitter'; there are click, box, box3d" in capsys.readouterr().err
