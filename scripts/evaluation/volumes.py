"""Objects in volumes whose true masks are known, and a simulated user who segments them from slice to slice."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pydicom

from evaluation.baselines import ellipsoid_in_box
from evaluation.cases import CaseError, LabelledVolume, labelled_volumes
from evaluation.users import Click, box_around, centre_click, corrective_click
from lib.imaging.dicom.reader import read_dicom_headers
from lib.imaging.image import MedicalImage
from lib.imaging.readers import read_image
from lib.sam.predictor import Predictor
from lib.sam.volume.propagation import propagate
from lib.sam.volume.result import VolumeResult
from lib.transforms.masks import ResultToVolumed
from lib.transforms.request import ViewerPrompts
from lib.transforms.viewer_prompts import volume_prompts
from lib.transforms.window import volume_pictures

MIN_SLICES = 3
"""Objects on fewer slices are left out: they are no volumes."""

CORRECTIONS = 5
"""Corrective clicks, as in the challenge that the areas under the curve come from."""


@dataclass(frozen=True, eq=False)
class VolumeCase:
    """One object in one volume.

    Args:
        name: Tells it from all others.
        label: What it is.
        image: The volume.
        truth: ``(K, H, W)`` bool.
        spacing: ``(slice, row, column)`` distances in millimetres.
        files: The image's.
    """

    name: str
    label: str
    image: MedicalImage
    truth: np.ndarray
    spacing: tuple[float, float, float]
    files: tuple[Path, ...]

    @property
    def largest(self) -> int:
        """The slice on which the object is largest."""
        return int(self.truth.sum(axis=(1, 2)).argmax())


def find_volume_cases(folder: Path) -> list[VolumeCase]:
    """Every object of at least three slices in the volumes of a folder, see :func:`~evaluation.cases.find_cases`.

    Raises:
        CaseError: If there is none.
        ImageError: If an image cannot be read.
    """
    found = [_case(each) for each in labelled_volumes(folder) if each.truth.any(axis=(1, 2)).sum() >= MIN_SLICES]
    if not found:
        raise CaseError(
            f"{folder} holds no objects of three or more slices: images/NAME.nii.gz with labels/NAME.nii.gz, or a "
            "folder for each DICOM series with a Segmentation in it"
        )
    return found


def _case(volume: LabelledVolume) -> VolumeCase:
    image, order = _read_in_order(volume.files)
    truth = volume.truth if order is None else volume.truth[order]
    if image.volume_fault or truth.shape != (image.frame_count, *image.frame_size):
        raise CaseError(f"the image of {volume.name}, {image.frames.shape}, does not fit its mask, {truth.shape}")
    column, row, depth = np.linalg.norm(image.affine[:3, :3], axis=0)
    spacing = float(depth), float(row), float(column)
    return VolumeCase(volume.name, volume.label, image, truth, spacing, volume.files)


@lru_cache(maxsize=1)  # the objects of a volume come one after the other
def _read_in_order(files: tuple[Path, ...]) -> tuple[MedicalImage, list[int] | None]:
    """Read a volume, and of a series which of its files each slice is from."""
    if len(files) == 1:
        return read_image(files[0]), None
    with tempfile.TemporaryDirectory() as folder:  # the series alone, without its Segmentation
        for file in files:
            Path(folder, file.name).symlink_to(file.resolve())
        image, headers = read_image(folder), read_dicom_headers(folder)
    uids = [pydicom.dcmread(file, specific_tags=["SOPInstanceUID"]).SOPInstanceUID for file in files]
    return image, [uids.index(header.SOPInstanceUID) for header in headers]


@dataclass(eq=False)
class VolumeDialogue:
    """One object being segmented by a viewer's user: each request has all prompts so far.

    Args:
        predictor: The model.
        case: The object.
    """

    predictor: Predictor
    case: VolumeCase
    region: tuple[float, ...] | None = None
    foreground: list[tuple[float, float, int]] = field(default_factory=list)
    background: list[tuple[float, float, int]] = field(default_factory=list)
    _last: VolumeResult | None = None

    def __post_init__(self) -> None:
        self._picture, _ = volume_pictures(self.case.image, self.case.largest)

    def click(self, k: int, click: Click) -> np.ndarray:
        """Click on slice k, and return the mask ``(K, H, W)``."""
        x, y, label = click
        (self.foreground if label else self.background).append((x, y, k))
        return self._mask()

    def box(self, box: np.ndarray, first: int, last: int) -> np.ndarray:
        """Draw a box, XYXY, over the slices from first to last, and return the mask ``(K, H, W)``."""
        self.region = (box[0], box[2], box[1], box[3], first, last)
        return self._mask()

    def _mask(self) -> np.ndarray:
        sent = ViewerPrompts(self.foreground, self.background, self.region)
        prompts = volume_prompts(self.case.image, sent)
        self._last = propagate(self.predictor, self._picture, prompts, earlier=self._last)
        labels = ResultToVolumed()({"volume_result": self._last, "image": self.case.image})["pred"]
        return np.asarray(labels) > 0


def one_click(case: VolumeCase, dialogue: VolumeDialogue) -> Iterator[tuple[str, np.ndarray]]:
    """One click at the object's innermost place on its largest slice."""
    yield "one click", dialogue.click(case.largest, centre_click(case.truth[case.largest]))


def one_box(case: VolumeCase, dialogue: VolumeDialogue) -> Iterator[tuple[str, np.ndarray]]:
    """A tight box on the largest slice, and what it gives without a model: an ellipsoid as deep as it is wide."""
    k = case.largest
    box = box_around(case.truth[k])
    yield "one box", dialogue.box(box, k, k)
    width = (box[2:] - box[:2]) @ np.array([case.spacing[2], case.spacing[1]]) / 2
    half = width / case.spacing[0] / 2
    yield "one box: ellipsoid", ellipsoid_in_box(case.truth.shape, box, k + 0.5 - half, k + 0.5 + half)


def box_in_space(case: VolumeCase, dialogue: VolumeDialogue) -> Iterator[tuple[str, np.ndarray]]:
    """The tight box of the whole object, in three dimensions, and the ellipsoid in it."""
    box = box_around(np.asarray(case.truth.any(axis=0)))
    slices = np.flatnonzero(case.truth.any(axis=(1, 2)))
    yield "3D box", dialogue.box(box, int(slices[0]), int(slices[-1]))
    yield "3D box: ellipsoid", ellipsoid_in_box(case.truth.shape, box, slices[0], slices[-1] + 1)


def corrections(case: VolumeCase, dialogue: VolumeDialogue) -> Iterator[tuple[str, np.ndarray]]:
    """A tight box on the largest slice, then a click on the slice that is most wrong, and again."""
    k = case.largest
    mask = dialogue.box(box_around(case.truth[k]), k, k)
    yield from _corrected("box, corrections", case, dialogue, mask)


def corrections_of_click(case: VolumeCase, dialogue: VolumeDialogue) -> Iterator[tuple[str, np.ndarray]]:
    """One click, then likewise."""
    mask = dialogue.click(case.largest, centre_click(case.truth[case.largest]))
    yield from _corrected("corrections", case, dialogue, mask)


def _corrected(
    row: str, case: VolumeCase, dialogue: VolumeDialogue, mask: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    for count in range(1, CORRECTIONS + 1):
        worst = int((mask ^ case.truth).sum(axis=(1, 2)).argmax())
        click = corrective_click(mask[worst], case.truth[worst])
        if click is not None:
            mask = dialogue.click(worst, click)
        yield f"{row} {count}", mask


VOLUME_PROTOCOLS = {
    "click": one_click,
    "box": one_box,
    "box3d": box_in_space,
    "corrections": corrections_of_click,
    "box-corrections": corrections,
}
"""By the names that the command line has for them."""

_KINDS = {"click": {"point"}, "box": {"box"}, "box3d": {"box"}, "corrections": {"point"}}


def answerable_in_volumes(names: Sequence[str], kinds: Sequence[str]) -> list[str]:
    """Those of the protocols that ask with these kinds of prompts alone."""
    return [name for name in names if _KINDS.get(name, {"box", "point"}) <= set(kinds)]


def area_under_curve(values: Sequence[float]) -> float:
    """The area under a measure over corrective clicks, by trapezoids one click wide: of five clicks at most 4.

    As DSC_AUC and NSD_AUC of the challenge "Foundation Models for Interactive 3D Biomedical Image Segmentation" (CVPR
    2025): the answer before the first click does not count.
    """
    return float(np.trapezoid(values))
