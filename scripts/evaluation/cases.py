"""Images with objects whose true masks are known, from the layouts in which data sets come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import highdicom
import numpy as np
import pydicom
from pydicom.uid import SegmentationStorage

from lib.imaging.image import MedicalImage
from lib.imaging.readers import read_image
from lib.transforms.window import choose_window, windowed_frame

MIN_PIXELS = 16
"""Smaller objects are left out: a tight box around them is hardly more than a point."""


PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""How the names of pictures end; their masks are PNG, which loses nothing."""


class CaseError(ValueError):
    """The folder is not laid out in a way that is known; the message says which ways there are."""


@dataclass(frozen=True, eq=False)
class Case:
    """One object on one frame.

    Args:
        name: Tells it from all others.
        label: What it is.
        file: The image's file, as it can be sent to a server.
        frame_index: Which of the file's frames, from 0.
        frame: ``(H, W, 3)`` uint8, windowed as the app does.
        truth: ``(H, W)`` bool.
        spacing: ``(row, column)`` distances in millimetres; None where the image states none.
    """

    name: str
    label: str
    file: Path
    frame_index: int
    frame: np.ndarray
    truth: np.ndarray
    spacing: tuple[float, float] | None

    @property
    def files(self) -> tuple[Path, ...]:
        """The image's files."""
        return (self.file,)


def find_cases(folder: Path) -> list[Case]:
    """Every object in a folder.

    The layouts are ``images/NAME.png`` (or another picture) with ``masks/NAME_LABEL_NUMBER.png``;
    ``images/NAME.nii.gz`` with ``labels/NAME.nii.gz`` (also ``imagesTr`` and ``labelsTr``; numbers are named by
    ``labels.json``), of which each label's largest slice is taken; and a folder for each DICOM series, with a
    Segmentation of it, likewise.

    Raises:
        CaseError: If it holds none of them.
        ImageError: If an image cannot be read.
    """
    if (folder / "masks").is_dir():
        found = list(_png_cases(folder))
    else:
        cases = (volume.largest_slice() for volume in labelled_volumes(folder))
        found = [case for case in cases if np.count_nonzero(case.truth) >= MIN_PIXELS]
    if not found:
        raise CaseError(
            f"{folder} holds no cases: images/NAME.png with masks/NAME_LABEL_NUMBER.png, images/NAME.nii.gz with "
            "labels/NAME.nii.gz, or a folder for each DICOM series with a Segmentation in it"
        )
    return found


def _png_cases(folder: Path) -> Iterator[Case]:
    images = [path for path in (folder / "images").iterdir() if path.suffix.lower() in PICTURES]
    for path in sorted(images):
        image = read_image(path)
        for mask_path in sorted((folder / "masks").glob(f"{path.stem}_*.png")):
            truth = read_image(mask_path).frames[0]
            truth = (truth if truth.ndim == 2 else truth.max(axis=2)) > 0
            label = mask_path.stem.removeprefix(f"{path.stem}_").rpartition("_")[0] or "object"
            if np.count_nonzero(truth) >= MIN_PIXELS:
                yield _case(mask_path.stem, label, path, image, 0, truth)


@dataclass(frozen=True, eq=False)
class LabelledVolume:
    """One object in a volume.

    Args:
        name: Tells it from all others.
        label: What it is.
        truth: ``(K, H, W)`` bool; of a DICOM series its slices in any order.
        files: The file of each slice, or the one of all.
    """

    name: str
    label: str
    truth: np.ndarray
    files: tuple[Path, ...]

    def largest_slice(self) -> Case:
        """Return the object on the slice on which it is largest."""
        k = int(self.truth.sum(axis=(1, 2)).argmax())
        path, frame = (self.files[0], k) if len(self.files) == 1 else (self.files[k], 0)
        return _case(self.name, self.label, path, _read(path), frame, self.truth[k])


_read = lru_cache(maxsize=1)(read_image)
"""Reads an image once for the objects in it, which come one after the other."""


def labelled_volumes(folder: Path) -> Iterator[LabelledVolume]:
    """Every object of NIfTI pairs, or of DICOM series with a Segmentation, in a folder."""
    is_nifti = any((folder / name).is_dir() for name in ("labels", "labelsTr"))
    return _nifti_volumes(folder) if is_nifti else _dicom_volumes(folder)


def _nifti_volumes(folder: Path) -> Iterator[LabelledVolume]:
    suffix = "Tr" if (folder / "labelsTr").is_dir() else ""
    names_file = folder / "labels.json"
    names = json.loads(names_file.read_text()) if names_file.is_file() else {}
    for path in sorted((folder / f"images{suffix}").glob("*.nii*")):
        labels = read_image(folder / f"labels{suffix}" / path.name).frames
        for value in np.unique(labels[labels > 0]):
            label = str(names.get(str(int(value)), int(value)))
            yield LabelledVolume(f"{path.name.partition('.')[0]} {label}", label, labels == value, (path,))


def _dicom_volumes(folder: Path) -> Iterator[LabelledVolume]:
    for study in sorted(path for path in folder.iterdir() if path.is_dir()):
        headers = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(study.glob("*.dcm"))}
        masks = [path for path, header in headers.items() if header.SOPClassUID == SegmentationStorage]
        by_uid = {header.SOPInstanceUID: path for path, header in headers.items() if path not in masks}
        if not masks or not by_uid:
            continue
        for mask_path in masks:
            segmentation = highdicom.seg.segread(mask_path)
            segmented = [uid for _, _, uid in segmentation.get_source_image_uids() if uid in by_uid]
            for number in segmentation.segment_numbers:
                planes = segmentation.get_pixels_by_source_instance(
                    segmented,
                    segment_numbers=[number],
                    ignore_spatial_locations=True,
                    assert_missing_frames_are_empty=True,
                )
                label = str(segmentation.get_segment_description(number).segment_label)
                name = f"{study.name} {mask_path.stem} {label}"
                truth = np.zeros((len(by_uid), *planes.shape[1:3]), dtype=bool)
                truth[[list(by_uid).index(uid) for uid in segmented]] = planes[..., 0] > 0
                yield LabelledVolume(name, label, truth, tuple(by_uid.values()))


def _case(name: str, label: str, path: Path, image: MedicalImage, k: int, truth: np.ndarray) -> Case:
    if truth.shape != image.frame_size:
        raise CaseError(f"the mask of {name} is {truth.shape}, its image {image.frame_size}")
    spacing = np.linalg.norm(image.affine[:3, :2], axis=0) if image.is_geometric else None
    return Case(
        name=name,
        label=label,
        file=path,
        frame_index=k,
        frame=windowed_frame(image, k, choose_window(image, k)[0]),
        truth=truth,
        spacing=None if spacing is None else (float(spacing[1]), float(spacing[0])),
    )
