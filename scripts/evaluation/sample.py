"""A folder to try ``scripts/evaluate`` with: a synthetic torso, whose organs are known, as CT and as MR."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np

from phantom_series import ORGANS, SERIES, Series

NAMES = ("liver", "stomach", "spleen", "kidney", "aorta", "lesion")
"""Organs that are labelled."""

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def fill(folder: Path) -> Path:
    """Write it as ``images/NAME.nii.gz`` with ``labels/NAME.nii.gz`` and ``labels.json``, unless it is there.

    Args:
        folder: Made if need be; if it is not empty, it stays as it is.

    Returns:
        The folder.
    """
    if folder.is_dir() and any(folder.iterdir()):
        return folder
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    numbers = {number: organ.name for number, organ in enumerate(ORGANS) if organ.name in NAMES}
    (folder / "labels.json").write_text(json.dumps(numbers, indent=1) + "\n")
    for series in SERIES:
        labels = np.zeros(series.grid.shape, np.uint8)
        for number in numbers:
            labels[series.grid.label(number)] = number
        for kind, volume in (("images", series.values()), ("labels", labels)):
            _write(volume, series, folder / kind / f"torso_{series.modality.lower()}.nii.gz")
    return folder


def _write(volume: np.ndarray, series: Series, path: Path) -> None:
    """Write ``[k, j, i]`` values with their place in the patient."""
    affine = np.eye(4)
    affine[:3, :3] = _LPS_TO_RAS @ series.grid.axes[:, ::-1]
    affine[:3, 3] = _LPS_TO_RAS @ series.grid.origin
    nibabel.Nifti1Image(volume.transpose(2, 1, 0), affine).to_filename(path)
