"""Images with objects whose true masks are known, from the layouts in which data sets come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
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


def find_cases(folder: Path) -> list[Case]:
    """Every object in a folder.

    The layouts are ``images/NAME.png`` with ``masks/NAME_LABEL_NUMBER.png``; ``images/NAME.nii.gz`` with
    ``labels/NAME.nii.gz`` (also ``imagesTr`` and ``labelsTr``; numbers are named by ``labels.json``), of which each
    label's largest slice is taken; and a folder for each DICOM series, with a Segmentation of it, likewise.

    Raises:
        CaseError: If it holds none of them.
        ImageError: If an image cannot be read.
    """
    if (folder / "masks").is_dir():
        found = list(_png_cases(folder))
    elif any((folder / name).is_dir() for name in ("labels", "labelsTr")):
        found = list(_nifti_cases(folder))
    else:
        found = list(_dicom_cases(folder))
    if not found:
        raise CaseError(
            f"{folder} holds no cases: images/NAME.png with masks/NAME_LABEL_NUMBER.png, images/NAME.nii.gz with "
            "labels/NAME.nii.gz, or a folder for each DICOM series with a Segmentation in it"
        )
    return found


def _png_cases(folder: Path) -> Iterator[Case]:
    for path in sorted((folder / "images").glob("*.png")):
        image = read_image(path)
        for mask_path in sorted((folder / "masks").glob(f"{path.stem}_*.png")):
            truth = read_image(mask_path).frames[0]
            truth = (truth if truth.ndim == 2 else truth.max(axis=2)) > 0
            label = mask_path.stem.removeprefix(f"{path.stem}_").rpartition("_")[0] or "object"
            if np.count_nonzero(truth) >= MIN_PIXELS:
                yield _case(mask_path.stem, label, path, image, 0, truth)


def _nifti_cases(folder: Path) -> Iterator[Case]:
    suffix = "Tr" if (folder / "labelsTr").is_dir() else ""
    names_file = folder / "labels.json"
    names = json.loads(names_file.read_text()) if names_file.is_file() else {}
    for path in sorted((folder / f"images{suffix}").glob("*.nii*")):
        labels = read_image(folder / f"labels{suffix}" / path.name).frames
        image = read_image(path)
        for value in np.unique(labels[labels > 0]):
            k, truth = _largest_slice(labels == value)
            if np.count_nonzero(truth) >= MIN_PIXELS:
                label = str(names.get(str(int(value)), int(value)))
                yield _case(f"{path.name.partition('.')[0]} {label}", label, path, image, k, truth)


def _dicom_cases(folder: Path) -> Iterator[Case]:
    for study in sorted(path for path in folder.iterdir() if path.is_dir()):
        headers = {path: pydicom.dcmread(path, stop_before_pixels=True) for path in sorted(study.glob("*.dcm"))}
        masks = [path for path, header in headers.items() if header.SOPClassUID == SegmentationStorage]
        slices = {header.SOPInstanceUID: path for path, header in headers.items() if path not in masks}
        for mask_path in masks:
            segmentation = highdicom.seg.segread(mask_path)
            instances = [uid for _, _, uid in segmentation.get_source_image_uids() if uid in slices]
            for number in segmentation.segment_numbers:
                planes = segmentation.get_pixels_by_source_instance(
                    instances,
                    segment_numbers=[number],
                    ignore_spatial_locations=True,
                    assert_missing_frames_are_empty=True,
                )
                k, truth = _largest_slice(planes[..., 0] > 0)
                if np.count_nonzero(truth) >= MIN_PIXELS:
                    label = str(segmentation.get_segment_description(number).segment_label)
                    path = slices[instances[k]]
                    yield _case(f"{study.name} {mask_path.stem} {label}", label, path, read_image(path), 0, truth)


def _largest_slice(volume: np.ndarray) -> tuple[int, np.ndarray]:
    k = int(volume.sum(axis=(1, 2)).argmax())
    return k, volume[k]


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
