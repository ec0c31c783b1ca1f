"""A person clicks on organs in OHIF, as it comes with MONAI Label, and finds their masks there."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from phantom_series import ORGANS, SERIES, Grid, Series

pytestmark = pytest.mark.e2e

STOMACH, SPLEEN, LESION = (next(n for n, organ in enumerate(ORGANS) if organ.name == name) for name in (
    "stomach", "spleen", "lesion",
))  # fmt: skip
CT, MR = SERIES


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def slices_of(labels: np.ndarray) -> set[int]:
    return set(np.flatnonzero(labels.any(axis=(1, 2))).tolist())


def open_series(ohif, patient: str) -> None:
    ohif.open_list()
    ohif.open_study(patient)
    ohif.connect()


def test_the_list_shows_every_modality_and_the_plugin_finds_what_the_server_offers(ohif, picture, dicomweb_server):
    ohif.open_list()
    rows = ohif.page.locator('[data-cy="study-list-results"]').inner_text()
    picture("list")
    assert "Phantom, CT" in rows and "Phantom, MR" in rows
    assert "Synthetic torso, CT" in rows  # asked for in the query
    ohif.open_study("Phantom, CT")
    ohif.connect()
    assert ohif.server() == f"{dicomweb_server.url}/"
    assert "sam_tiny" in ohif.models()
    assert {"liver", "spleen", "lesion", "background"} <= set(ohif.organs())


@pytest.mark.parametrize("series", [pytest.param(CT, id="CT"), pytest.param(MR, id="MR", marks=pytest.mark.long)])
def test_a_click_gives_a_mask_on_its_slice(ohif, picture, series: Series):
    """Axial CT and sagittal MR: the voxels of OHIF are those of the server, in the same order."""
    open_series(ohif, f"Phantom, {series.modality}")
    assert np.array_equal(ohif.image(), series.values())
    place = ORGANS[STOMACH].centre
    ohif.choose_model("sam_tiny")
    ohif.choose_label("region")
    ohif.go_to(place)
    ohif.click(place)
    asked, answer = ohif.run()
    picture("mask")
    assert answer.status == 200
    (point,) = asked["foreground"]
    assert np.abs(np.subtract(point, ohif.voxel(place))).max() <= 1
    labels = ohif.labels()
    k = point[2]
    assert slices_of(labels) == {k}
    assert len(np.unique(labels)) == 2
    assert dice(labels[k] > 0, series.grid.label(STOMACH)[k]) > 0.85
    assert len(gzip.compress(labels.tobytes())) < 20_000 and int(answer.headers["content-length"]) < 20_000


def test_a_second_label_keeps_the_first_and_a_negative_point_shrinks_a_mask(ohif, picture):
    open_series(ohif, "Phantom, CT")
    ohif.choose_label("spleen")
    ohif.go_to(ORGANS[SPLEEN].centre)
    ohif.click(ORGANS[SPLEEN].centre)
    ohif.run()
    first = ohif.labels().copy()
    (spleen,) = set(np.unique(first)) - {0}

    ohif.choose_label("lesion")
    ohif.go_to(ORGANS[LESION].centre)
    ohif.click(ORGANS[LESION].centre)
    ohif.run()
    second = ohif.labels().copy()
    picture("two labels")
    (lesion,) = set(np.unique(second)) - {0, spleen}
    assert np.array_equal(second == spleen, first == spleen)
    k = ohif.voxel(ORGANS[LESION].centre)[2]
    assert slices_of(second == lesion) == {k}
    assert dice(second[k] == lesion, CT.grid.label(LESION)[k]) > 0.85

    x, y, z = ORGANS[SPLEEN].centre
    outside = (x, y + 22, z)
    ohif.choose_label("background")
    ohif.go_to(outside)
    ohif.click(outside)
    ohif.choose_label("spleen")
    asked, _ = ohif.run()
    third = ohif.labels()
    picture("negative point")
    assert len(asked["foreground"]) == len(asked["background"]) == 1
    i, j, k = asked["background"][0]
    assert first[k, j, i] == spleen and third[k, j, i] != spleen
    assert 0 < np.count_nonzero(third == spleen) < np.count_nonzero(first == spleen)
    assert np.array_equal(third == lesion, second == lesion)


def test_a_model_for_volumes_fills_the_neighbouring_slices(ohif, picture, dicomweb_server):
    if "sam_tiny_3d" not in dicomweb_server.get("/info/").json()["models"]:
        pytest.skip("there is no model for volumes")
    open_series(ohif, "Phantom, CT")
    place = ORGANS[SPLEEN].centre
    ohif.choose_model("sam_tiny_3d")
    ohif.choose_label("spleen")
    ohif.go_to(place)
    ohif.click(place)
    ohif.run()
    picture("volume")
    labels, k = ohif.labels() > 0, ohif.voxel(place)[2]
    assert {k - 1, k, k + 1} <= slices_of(labels)
    assert dice(labels, CT.grid.label(SPLEEN)) > 0.7


@dataclass(frozen=True)
class Nifti(Series):
    """A NIfTI file whose axes lie along the patient's, as a DICOM series.

    Args:
        path: The file.
    """

    path: Path = Path()

    @classmethod
    def of(cls, path: Path, modality: str) -> Nifti:
        image = nibabel.load(path)
        lps = np.diag([-1, -1, 1]) @ image.affine[:3, :3]
        spacing = np.linalg.norm(lps, axis=0)
        rows, columns = (tuple((lps[:, axis] / spacing[axis]).round(6).tolist()) for axis in (0, 1))
        grid = Grid(image.shape[::-1], tuple(spacing[::-1].tolist()), rows, columns)
        return cls(modality, path.name, grid, path)

    def values(self) -> np.ndarray:
        values = np.asarray(nibabel.load(self.path).dataobj).T.round()
        return np.ascontiguousarray(np.maximum(values, 0).astype(np.int16))  # resampling made some negative


def _middle(ohif, series_values: np.ndarray, towards: tuple[float, float]) -> tuple[float, float, float]:
    """A place (LPS, mm) on the middle slice, at fractions of its width and height."""
    slices, rows, columns = series_values.shape
    index = [round(columns * towards[0]), round(rows * towards[1]), slices // 2]
    return tuple(
        ohif.page.evaluate(
            "(index) => [...cornerstone.cache.getVolumes().find((one) => one.loadStatus?.loaded)"
            ".imageData.indexToWorld(index)]",
            index,
        )
    )


def _click_on_real_image(ohif, picture, patient: str) -> None:
    """What the mask covers looks, in OHIF's own voxels, as where the click was."""
    open_series(ohif, patient)
    values = ohif.image()
    place = _middle(ohif, values, (0.4, 0.52))
    ohif.choose_label("region")
    ohif.go_to(place)
    ohif.click(place)
    asked, answer = ohif.run()
    picture("mask")
    assert answer.status == 200
    i, j, k = asked["foreground"][0]
    labels = ohif.labels()
    assert slices_of(labels) == {k} and labels[k, j, i]
    inside = values[k][labels[k] > 0].astype(float)
    around = values[k, j - 2 : j + 3, i - 2 : i + 3].astype(float)
    assert abs(np.median(inside) - np.median(around)) < 0.25 * np.std(values[k].astype(float))


@pytest.mark.long
def test_a_click_on_a_real_ct(ohif, picture, orthanc, shared_data):
    files = sorted((shared_data / "ct_raw").glob("*.dcm"))
    orthanc.store(*files)
    _click_on_real_image(ohif, picture, _shown(files[0]))


@pytest.mark.long
def test_a_click_on_a_real_mr(ohif, picture, orthanc, shared_data, tmp_path):
    files = Nifti.of(shared_data / "mr_lowres.nii.gz", "MR").write(tmp_path)
    for file in files:
        dataset = pydicom.dcmread(file)
        dataset.PatientName = "Real^MR"
        dataset.save_as(file)
    orthanc.store(*files)
    _click_on_real_image(ohif, picture, "Real, MR")


def _shown(file: Path) -> str:
    """A patient as the list of studies shows them: by number, as the name can be empty."""
    return str(pydicom.dcmread(file, stop_before_pixels=True).PatientID)
