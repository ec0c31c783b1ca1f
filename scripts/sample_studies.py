"""Fills a studies folder with a few real images: pydicom's own test files, in formats of MONAI Label's datastore."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydicom.data
import SimpleITK as sitk


@dataclass(frozen=True)
class Sample:
    """One image of the folder.

    Args:
        name: File name; the stem is the image's id, so no two samples share one.
        source: pydicom's file that it is made from.
        make: From SimpleITK's reading of the source to what is written.
    """

    name: str
    source: str
    make: Callable[[sitk.Image], sitk.Image]


def _volume(image: sitk.Image) -> sitk.Image:
    """As it is: a volume of one slice, with its geometry, in modality units."""
    return image


def _brain_window(image: sitk.Image) -> sitk.Image:
    """8 bits for a PNG: 100 Hounsfield units around 40, as a radiologist looks at a brain."""
    window = sitk.IntensityWindowing(image[:, :, 0], -10.0, 90.0, 0.0, 255.0)
    return sitk.Cast(window, sitk.sitkUInt8)


HEAD_CT = "J2K_pixelrep_mismatch.dcm"
HEAD_CT_RECTANGLE = {"startX": 132, "startY": 228, "width": 248, "height": 178}
"""Around the posterior fossa (cerebellum and brain stem) in :data:`HEAD_CT` and the PNG of it, in pixels."""

SAMPLES = (
    Sample("ct_spine.nii.gz", "CT_small.dcm", _volume),
    Sample("mr_joint.nii.gz", "MR_small.dcm", _volume),
    Sample("ct_head.png", HEAD_CT, _brain_window),
)


def dicom_file(name: str) -> Path:
    """Where one of pydicom's test files is.

    Raises:
        FileNotFoundError: If this pydicom came without it.
    """
    path = Path(pydicom.data.__file__).parent / "test_files" / name
    if not path.is_file():
        raise FileNotFoundError(f"pydicom's test file {name} is not installed")
    return path


def example_image(folder: Path) -> Path:
    """The head CT: as the folder's PNG if that is there, else as pydicom's DICOM file."""
    png = folder / "ct_head.png"
    return png if png.is_file() else dicom_file(HEAD_CT)


def fill(folder: Path) -> list[Path]:
    """Writes the samples into a folder that is missing or empty, and nothing into any other.

    Returns:
        The files written.
    """
    if folder.exists() and any(folder.iterdir()):
        return []
    folder.mkdir(parents=True, exist_ok=True)
    return [_write(sample, folder) for sample in SAMPLES]


def _write(sample: Sample, folder: Path) -> Path:
    path = folder / sample.name
    sitk.WriteImage(sample.make(sitk.ReadImage(str(dicom_file(sample.source)))), str(path), useCompression=True)
    return path


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="a folder that is missing or empty")
    folder = parser.parse_args().folder
    for path in fill(folder):
        print(path)


if __name__ == "__main__":
    main()
