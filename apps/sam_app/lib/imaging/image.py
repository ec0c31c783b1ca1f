"""One type for every image that the app reads: raster, DICOM (file, multi-frame, series), NIfTI, NRRD, array."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

VoiLutFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM and ITK count millimetres to the patient's left and back, NIfTI and MONAI to the right and front."""


def affine_of_pixels(length: float | None, density: Sequence[float], *, is_turned: bool) -> np.ndarray:
    """The affine of a picture that knows the size of its pixels at most: as ITK, from the origin to left and back.

    Args:
        length: mm that ``density`` counts pixels over; None if it is not known, for 1 mm a pixel.
        density: Pixels across and down, as the picture is stored.
        is_turned: Whether rows and columns change places to show it.

    Returns:
        ``(4, 4)``, voxel to RAS+ mm.
    """
    if length is None or not all(0 < dots < np.inf for dots in density):
        return LPS_TO_RAS.copy()
    columns, rows = density[::-1] if is_turned else density
    return np.asarray(LPS_TO_RAS @ np.diag([length / columns, length / rows, 1, 1]))


def place_tolerance(step: np.ndarray) -> float:
    """How far in mm a slice may lie from where an affine puts it, since positions are rounded and tables move roughly.

    Args:
        step: ``(3,)`` mm from slice to slice.

    Returns:
        0.1 mm, but at least a tenth and at most a fifth of the step.
    """
    length = float(np.linalg.norm(step))
    return float(np.clip(0.1, 0.1 * length, 0.2 * length)) + 1e-6


class ImageError(ValueError):
    """The image cannot be used; the message says what was found and what would do. Never names a path."""


class UnsupportedImageError(ImageError):
    """Not an image format that is read here, or a variant (transfer syntax, SOP class, shape) that is not."""


class CorruptImageError(ImageError):
    """A known format whose content is truncated, contradictory or undecodable."""


class NotOneVolumeError(ImageError):
    """Images or frames that cannot be laid into one volume, or not where they lie; the message says what was found."""


class ImageTooLargeError(ImageError):
    """More pixels or frames than the limit allows."""


class ImageChangedError(ImageError):
    """No longer the image that was opened: what was said of the other one does not hold for it."""


@dataclass(frozen=True)
class Window:
    """A VOI window in modality units (Hounsfield units for CT): DICOM PS3.3 C.11.2.1.2.

    Args:
        center: Window Center (0028,1050).
        width: Window Width (0028,1051), finite; >= 1 for LINEAR, > 0 for the others.
        function: VOI LUT Function (0028,1056).
    """

    center: float
    width: float
    function: VoiLutFunction = "LINEAR"

    def __post_init__(self) -> None:
        if not np.isfinite(self.center) or not np.isfinite(self.width):
            raise ValueError(f"window center and width must be finite numbers, not {self.center}, {self.width}")
        smallest_is_valid = self.width >= 1 if self.function == "LINEAR" else self.width > 0
        if not smallest_is_valid:
            bound = ">= 1 (LINEAR)" if self.function == "LINEAR" else f"> 0 ({self.function})"
            raise ValueError(f"window width must be {bound}, not {self.width}")


@dataclass(frozen=True)
class VoiTable:
    """A VOI LUT: DICOM PS3.3 C.11.2.1.1.

    Args:
        outputs: What each entry is shown as, 0 to 255, one byte an entry.
        first_mapped: The modality value of the first entry; lower and higher values get the first and the last entry.
    """

    outputs: bytes
    first_mapped: int

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ValueError("a VOI LUT needs an entry")


VoiTransform = Window | VoiTable
"""One way to show modality values: PS3.3 C.11.2."""


@dataclass(frozen=True)
class Display:
    """How a source wants a frame to be shown.

    Args:
        transforms: Its VOI transforms; the first is the one to show, the others are alternatives.
        is_invalid: Whether it states some, but none that can be: a width of 0, a damaged table.
        padding: Inclusive range of modality values that are padding (PS3.3 C.7.5.1.1.2), else None.
    """

    transforms: tuple[VoiTransform, ...] = ()
    is_invalid: bool = False
    padding: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class MedicalImage:
    """Pixels of a 2D image, a multi-frame image or a volume, with what is known of them.

    The voxel index ``(i, j, k)`` is that of NIfTI and ITK: ``i`` is the column, ``j`` the row, ``k`` the frame or
    slice; ``frames[k, j, i]`` is that voxel. For a raster image the pixel ``(x, y)`` is ``(i, j)`` with ``k = 0``.

    Args:
        frames: ``(K, rows, columns)`` of any integer or float dtype: modality values, that is after the Modality
            LUT (PS3.3 C.11.1), so Hounsfield units for CT; or ``(K, rows, columns, 3)`` uint8 RGB. Read-only use.
        affine: ``(4, 4)`` float64, voxel ``(i, j, k, 1)`` to millimetres in RAS+ (NIfTI, MONAI). What the source
            does not state is as in ITK: origin 0, identity directions in LPS, 1 mm.
        file_format: "PNG", "JPEG", "TIFF", "BMP", "DICOM", "NIfTI", "NRRD" or "array".
        modality: DICOM Modality (0008,0060), else None.
        displays: How the source wants its frames to be shown: one for each of them, or one that holds for all.
        inverted: True for MONOCHROME1: low values are shown bright.
        is_hounsfield: Whether the source says that its values are Hounsfield units; None if it leaves that open.
        is_geometric: True if ``affine`` lies in the patient; otherwise only the spacing can be the source's.
        datasets: For DICOM: the source's header(s), Pixel Data removed, one per instance in order of ``k`` (a
            multi-frame instance has one for all its frames). Empty otherwise.
        positions: ``(K, 3)`` RAS+ mm, the centre of each frame's first pixel, where no affine reaches them all: slices
            are missing or unevenly spaced. ``affine`` then has the usual step, from the first frame on. Else None.
        volume_fault: Why the frames, each in its own place, are no volume; empty if they are one.
        notes: What a person should know of how the image was read.
    """

    frames: np.ndarray
    affine: np.ndarray = field(default_factory=LPS_TO_RAS.copy)
    file_format: str = "array"
    modality: str | None = None
    displays: tuple[Display, ...] = (Display(),)
    inverted: bool = False
    is_hounsfield: bool | None = None
    is_geometric: bool = False
    datasets: tuple[Any, ...] = ()
    positions: np.ndarray | None = None
    volume_fault: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        frames = self.frames
        colour = frames.ndim == 4 and frames.shape[3] == 3 and frames.dtype == np.uint8
        grey = frames.ndim == 3 and frames.dtype.kind in "uif"
        if not (colour or grey) or 0 in frames.shape:
            raise ValueError(
                "frames must be (K, rows, columns) of numbers or (K, rows, columns, 3) of uint8, "
                f"not {frames.shape} of {frames.dtype}"
            )
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all():
            raise ValueError("affine must be a finite 4 x 4 matrix")
        if len(self.displays) not in (1, self.frame_count):
            raise ValueError(f"there are {len(self.displays)} displays for {self.frame_count} frames")

    def display(self, k: int) -> Display:
        """How the source wants frame ``k`` to be shown."""
        return self.displays[k if len(self.displays) > 1 else 0]

    @property
    def is_colour(self) -> bool:
        """Whether the frames are RGB."""
        return self.frames.ndim == 4

    @property
    def frame_count(self) -> int:
        """K, the number of frames or slices."""
        return int(self.frames.shape[0])

    @property
    def frame_size(self) -> tuple[int, int]:
        """``(rows, columns)`` of one frame."""
        return int(self.frames.shape[1]), int(self.frames.shape[2])

    @property
    def ijk_shape(self) -> tuple[int, int, int]:
        """``(columns, rows, frames)``: the volume's shape in the order of voxel indices."""
        rows, columns = self.frame_size
        return columns, rows, self.frame_count

    def affine_for(self, slices: Iterable[int]) -> np.ndarray:
        """The affine by which these slices lie where they lie in the patient, as far as one can say so.

        Args:
            slices: Those that have content, by ``k``; the others may be put anywhere.

        Returns:
            ``(4, 4)``, as ``affine``, which it is unless slices are missing or unevenly spaced.

        Raises:
            NotOneVolumeError: If the frames are no volume, or one of the slices would lie elsewhere.
        """
        if self.volume_fault:
            raise NotOneVolumeError(self.volume_fault)
        used = np.array(sorted(slices), dtype=int)
        if self.positions is None or not used.size:
            return self.affine
        affine, places = self.affine.copy(), self.positions[used]
        if len(used) > 1:
            affine[:3, 2] = (places[-1] - places[0]) / (used[-1] - used[0])
        affine[:3, 3] = places[0] - used[0] * affine[:3, 2]
        off = np.linalg.norm(used[:, None] * affine[:3, 2] + affine[:3, 3] - places, axis=1).max()
        if off > place_tolerance(self.affine[:3, 2]):
            raise NotOneVolumeError(
                f"slices are missing or unevenly spaced between slices {used[0] + 1} and {used[-1] + 1}, so that in a "
                f"volume of even steps they would lie up to {off:.3g} mm from their place: complete the series, "
                "segment one slice at a time, or ask for DICOM SEG (output=dicom_seg), in which each has its own place"
            )
        return affine
