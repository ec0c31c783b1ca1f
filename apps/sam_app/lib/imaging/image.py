"""The type of every image that the app reads: raster, DICOM (file, multi-frame, series), NIfTI, NRRD, array."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

VoiLutFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]

LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""DICOM and ITK (LPS) count mm to the patient's left and back, NIfTI and MONAI (RAS) to the right and front."""


def affine_of_pixels(length: float | None, density: Sequence[float], *, is_turned: bool) -> np.ndarray:
    """Return the affine of a picture that states at most its pixel size; the rest is as in ITK.

    Args:
        length: mm that ``density`` refers to; None if unknown, which gives 1 mm per pixel.
        density: Pixels per ``length``, horizontally and vertically, of the picture as stored.
        is_turned: Whether rows and columns are swapped for display.

    Returns:
        ``(4, 4)``, voxel to RAS+ mm.
    """
    if length is None or not all(0 < dots < np.inf for dots in density):
        return LPS_TO_RAS.copy()
    columns, rows = density[::-1] if is_turned else density
    return np.asarray(LPS_TO_RAS @ np.diag([length / columns, length / rows, 1, 1]))


def position_tolerance(step: np.ndarray) -> float:
    """Return how far in mm a slice may be off an affine: positions are rounded and tables move imprecisely.

    Args:
        step: ``(3,)`` vector in mm from one slice to the next.

    Returns:
        0.1 mm, but at least a tenth and at most a fifth of the step.
    """
    length = float(np.linalg.norm(step))
    return float(np.clip(0.1, 0.1 * length, 0.2 * length)) + 1e-6


class ImageError(ValueError):
    """An image that cannot be used; the message says what was found and what to do, and never contains a path."""


class UnsupportedImageError(ImageError):
    """A format, or a variant of one (transfer syntax, SOP class, shape), that the app does not read."""


class CorruptImageError(ImageError):
    """An image in a known format whose content is truncated, contradictory or undecodable."""


class NotOneVolumeError(ImageError):
    """Images or frames that do not form one volume at their true positions; the message says why."""


class ImageTooLargeError(ImageError):
    """An image that exceeds a limit on pixels, frames, memory or decoding time."""


class ImageChangedError(ImageError):
    """An image that has changed since it was opened, so that earlier results do not apply to it."""


class ImageGoneError(ImageError):
    """There is no such file, or no longer."""


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
        outputs: Grey level, 0 to 255, of each entry; one byte per entry.
        first_mapped: Modality value of the first entry; lower values get this entry, values above the last get the
            last.
    """

    outputs: bytes
    first_mapped: int

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ValueError("a VOI LUT needs at least one entry")


VoiTransform = Window | VoiTable
"""A transform from modality values to grey levels: PS3.3 C.11.2."""


@dataclass(frozen=True)
class Display:
    """How a source asks for a frame to be displayed.

    Args:
        transforms: Its VOI transforms; the first one is applied, the others are alternatives.
        is_invalid: Whether the source states transforms, but none that is valid (e.g. a width of 0, a damaged table).
        padding: Inclusive range of modality values that are padding (PS3.3 C.7.5.1.1.2), else None.
    """

    transforms: tuple[VoiTransform, ...] = ()
    is_invalid: bool = False
    padding: tuple[float, float] | None = None


@dataclass(frozen=True, eq=False)
class MedicalImage:
    """A 2D image, a multi-frame image or a volume: its pixels and what is known about them.

    Voxel indices ``(i, j, k)`` are those of NIfTI and ITK: ``i`` is the column, ``j`` the row, ``k`` the frame or
    slice; the voxel's value is ``frames[k, j, i]``. For a raster image the pixel ``(x, y)`` is ``(i, j)`` with ``k =
    0``.

    Args:
        frames: ``(K, rows, columns)`` of any integer or float dtype: modality values, i.e. after the Modality LUT
            (PS3.3 C.11.1), so Hounsfield units for CT; or ``(K, rows, columns, 3)`` uint8 RGB. Do not write into it.
        affine: ``(4, 4)`` float64, voxel ``(i, j, k, 1)`` to millimetres in RAS+ (NIfTI, MONAI). Values that the source
            does not state are ITK's defaults: origin 0, identity directions in LPS, 1 mm.
        file_format: "PNG", "JPEG", "TIFF", "BMP", "DICOM", "NIfTI", "NRRD" or "array".
        modality: DICOM Modality (0008,0060); None for other formats.
        displays: How to display the frames according to the source: one item per frame, or one item for all.
        inverted: True for MONOCHROME1: low values are displayed bright.
        is_hounsfield: Whether the source says that its values are Hounsfield units; None if it does not say.
        is_geometric: True if ``affine`` refers to the patient; otherwise at most its spacing comes from the source.
        datasets: For DICOM: the source's header(s) without Pixel Data, one per instance in order of ``k`` (a
            multi-frame instance has one for all its frames). Empty otherwise.
        positions: ``(K, 3)`` RAS+ mm, the centre of each frame's first pixel, if no affine fits all frames because
            slices are missing or unevenly spaced; ``affine`` then has the usual step from the first frame on. Else
            None.
        volume_fault: Why the frames do not form a volume; empty if they do.
        notes: What users should know about how the image was read.
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
        """Return how frame ``k`` is to be displayed, according to the source."""
        return self.displays[k if len(self.displays) > 1 else 0]

    @property
    def is_colour(self) -> bool:
        """Whether the frames are RGB."""
        return self.frames.ndim == 4

    @property
    def frame_count(self) -> int:
        """Number of frames or slices, K."""
        return int(self.frames.shape[0])

    @property
    def frame_size(self) -> tuple[int, int]:
        """``(rows, columns)`` of one frame."""
        return int(self.frames.shape[1]), int(self.frames.shape[2])

    @property
    def ijk_shape(self) -> tuple[int, int, int]:
        """``(columns, rows, frames)``: the volume's shape in the order of the voxel indices."""
        rows, columns = self.frame_size
        return columns, rows, self.frame_count

    def affine_for(self, slices: Iterable[int]) -> np.ndarray:
        """Return an affine that puts these slices at their true positions in the patient.

        Args:
            slices: Indices ``k`` of the slices that have content; the other slices may be misplaced.

        Returns:
            ``(4, 4)``: ``affine``, unless slices are missing or unevenly spaced.

        Raises:
            NotOneVolumeError: If the frames do not form a volume, or no affine fits all these slices.
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
        if off > position_tolerance(self.affine[:3, 2]):
            raise NotOneVolumeError(
                f"slices are missing or unevenly spaced between slices {used[0] + 1} and {used[-1] + 1}, so that in an "
                f"evenly spaced volume they would be up to {off:.3g} mm off their position: complete the series, "
                "segment one slice at a time, or request DICOM SEG (output=dicom_seg), which stores each position"
            )
        return affine
