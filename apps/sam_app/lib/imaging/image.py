"""One type for every image that the app reads: raster, DICOM (file, multi-frame, series), NIfTI, NRRD, array."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

VoiLutFunction = Literal["LINEAR", "LINEAR_EXACT", "SIGMOID"]


class ImageError(ValueError):
    """The image cannot be used; the message says what was found and what would do. Never names a path."""


class UnsupportedImageError(ImageError):
    """Not an image format that is read here, or a variant (transfer syntax, SOP class, shape) that is not."""


class CorruptImageError(ImageError):
    """A known format whose content is truncated, contradictory or undecodable."""


class ImageTooLargeError(ImageError):
    """More pixels or frames than the limit allows."""


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


@dataclass(frozen=True, eq=False)
class MedicalImage:
    """Pixels of a 2D image, a multi-frame image or a volume, with what is known of them.

    The voxel index ``(i, j, k)`` is that of NIfTI and ITK: ``i`` is the column, ``j`` the row, ``k`` the frame or
    slice; ``frames[k, j, i]`` is that voxel. For a raster image the pixel ``(x, y)`` is ``(i, j)`` with ``k = 0``.

    Args:
        frames: ``(K, rows, columns)`` of any integer or float dtype: modality values, that is after the Modality
            LUT (PS3.3 C.11.1), so Hounsfield units for CT; or ``(K, rows, columns, 3)`` uint8 RGB. Read-only use.
        affine: ``(4, 4)`` float64, voxel ``(i, j, k, 1)`` to millimetres in RAS+ (NIfTI, MONAI). Identity when the
            source has no geometry.
        file_format: "PNG", "JPEG", "TIFF", "BMP", "DICOM", "NIfTI", "NRRD" or "array".
        modality: DICOM Modality (0008,0060), else None.
        windows: The source's own VOI windows, in its order; the first is the one to show.
        inverted: True for MONOCHROME1: low values are shown bright.
        padding: Inclusive range of modality values that are padding (0028,0120/0121), else None.
        is_geometric: True if ``affine`` came from the source.
        datasets: For DICOM: the source's header(s), Pixel Data removed, one per instance in order of ``k`` (a
            multi-frame instance has one for all its frames). Empty otherwise.
    """

    frames: np.ndarray
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    file_format: str = "array"
    modality: str | None = None
    windows: tuple[Window, ...] = ()
    inverted: bool = False
    padding: tuple[float, float] | None = None
    is_geometric: bool = False
    datasets: tuple[Any, ...] = ()

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
