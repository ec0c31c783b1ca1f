"""What the server found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sam_app_client import nrrd

if TYPE_CHECKING:
    from sam_app_client.base import BaseClient


@dataclass(frozen=True, eq=False)
class SegmentedImage:
    """The objects of an image.

    Attributes:
        timestamp: Names the result on the server, where it is kept for some time: Unix time in seconds.
        mask: ``(rows, columns)`` uint8: 0 background, then object numbers; where objects overlap that of the smaller.
        facts: All that the server says of it: ``SAM-Result`` in ``docs/rest.md``.
    """

    timestamp: float
    mask: npt.NDArray[np.uint8] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)
    _client: BaseClient[Any] = field(repr=False)

    @property
    def scores(self) -> tuple[float, ...]:
        """The predicted IoU of each object, in the order of their numbers."""
        return tuple(self.facts["scores"])

    @property
    def areas(self) -> tuple[int, ...]:
        """The pixels of each object's whole mask, also where another object covers it."""
        return tuple(self.facts["areas"])

    @property
    def candidates(self) -> int:
        """How many masks there are of an object, best first."""
        return int(self.facts["candidates"])

    @property
    def frame(self) -> int:
        """Which frame was segmented, from 0."""
        return int(self.facts["slice"])


@dataclass(frozen=True, eq=False)
class Volume:
    """An object in a volume, or a label that was made of it.

    Attributes:
        mask: ``(slices, rows, columns)`` uint8, 0 background: voxel ``(i, j, k)`` is ``mask[k, j, i]``, as in arrays of
            SimpleITK and pydicom; ``mask.T`` is the order of nibabel. Slices of DICOM are in the order of their place.
        affine: ``(4, 4)`` float64, voxel ``(i, j, k, 1)`` to millimetres, RAS+, as in NIfTI.
        facts: All that the server says of it: model, window, for each slice predicted IoU and area, where it ended.
    """

    mask: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Volume({np.count_nonzero(self.mask)} voxels, {self.millilitres:.2f} ml, of {self.mask.shape})"

    @property
    def areas(self) -> dict[int, int]:
        """Pixels of the mask on each slice that has any, by slice."""
        return {int(k): int(np.count_nonzero(self.mask[k])) for k in np.flatnonzero(self.mask.any(axis=(1, 2)))}

    @property
    def scores(self) -> dict[int, float]:
        """The predicted IoU on each slice, by slice."""
        return {found["k"]: found["score"] for found in self.facts.get("found", ())}

    @property
    def uncertain_slices(self) -> tuple[int, ...]:
        """Slices to look at first, as the model is not sure of them."""
        return tuple(self.facts.get("uncertain_slices", ()))

    @property
    def millilitres(self) -> float:
        """The volume of all voxels of the mask."""
        return float(np.count_nonzero(self.mask) * abs(np.linalg.det(self.affine[:3, :3])) / 1000)

    def with_mask(self, mask: npt.NDArray[Any]) -> Volume:
        """Return a volume in the same place with another mask, such as one that was corrected by hand.

        Args:
            mask: As :attr:`mask`, of bool or whole numbers up to 255.

        Raises:
            ValueError: If it has another shape or other values.
        """
        if mask.shape != self.mask.shape:
            raise ValueError(f"the mask must be {self.mask.shape}, not {mask.shape}")
        if mask.dtype != bool and (mask.dtype.kind not in "ui" or mask.min() < 0 or mask.max() > 255):
            raise ValueError(f"the mask must be of bool or whole numbers from 0 to 255, not {mask.dtype} beyond these")
        return replace(self, mask=mask.astype(np.uint8))

    def nrrd(self) -> bytes:
        """Return it as a NRRD file, which 3D Slicer, ITK-SNAP and SimpleITK read."""
        return nrrd.encode(self.mask, self.affine)


@dataclass(frozen=True)
class Health:
    """The server's state.

    Attributes:
        status: ``ok``; ``degraded``: it segments, but some background work failed; ``loading``; ``error``.
        detail: Why it is not ``ok``; None if it is.
        version: Of the server.
        models: Each model's state by name: ``ready``, ``not loaded``, ``no checkpoint``.
        model_facts: Of each model ``license``, ``research_only`` and the kinds of ``prompts`` that it takes.
        default_model: The model that is used if none is named.
        device: On which it computes, ``cpu`` or ``cuda``.
        running: Segmentations that are worked on or wait.
        limit: One more than so many is refused.
    """

    status: str
    detail: str | None
    version: str
    models: Mapping[str, str]
    model_facts: Mapping[str, Mapping[str, Any]]
    default_model: str
    device: str
    running: int
    limit: int


@dataclass(frozen=True)
class StoredImage:
    """An image of the server's datastore.

    Attributes:
        id: Its name there; of a DICOMweb server the Series Instance UID.
        filename: The name of its file; empty if it is not known.
        labels: Its labels: by tag, such as ``final``, the names of the objects by their numbers.
    """

    id: str
    filename: str = ""
    labels: Mapping[str, Mapping[int, str]] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Training:
    """How far a training is.

    Attributes:
        status: ``RUNNING``, ``DONE``, ``ERROR`` or ``STOPPED``.
        progress: The part that is done, 0 to 1.
        details: What has come of it, and what it does, in sentences.
        facts: All that the server says of it.
    """

    status: str
    progress: float
    details: tuple[str, ...]
    facts: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True)
class LearnedVersion:
    """A version of what a model, or a label that is found without prompts, has learned.

    Attributes:
        version: Its number.
        created: When, in ISO 8601.
        verdict: Why it is served or not.
        learned, held_out: Of how much it learned, and on how much it was measured.
    """

    version: int
    created: str
    verdict: Mapping[str, Any]
    learned: Mapping[str, int]
    held_out: Mapping[str, int]


@dataclass(frozen=True)
class LearnedModel:
    """All versions of one name.

    Attributes:
        name: Of a model, ``sam_tiny``, or of a label that is found without prompts, ``auto_spleen``.
        served: The number of the version that is served; None: the model as it was published, or nothing.
        versions: The oldest first.
    """

    name: str
    served: int | None
    versions: tuple[LearnedVersion, ...]
