"""A segmentation request, from whichever route it came: made there once, and only read by tasks and transforms.

It lies under the key :data:`REQUEST` of MONAI's data dictionary; the other keys are what the transforms make, see
:mod:`lib.transforms`, and the few that MONAI Label itself reads, see :meth:`SegmentRequest.as_monai`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from lib.imaging.image import MedicalImage, Window
from lib.transforms.sam_input import SAMPrompts

REQUEST = "request"

AUTO = "auto"
"""The option of a viewer for what suits the image."""


class Source(StrEnum):
    """Where the prompts come from."""

    REST = "rest"
    """A client of the REST routes: :class:`~lib.transforms.sam_input.SAMPrompts`."""

    VIEWER = "viewer"
    """OHIF, 3D Slicer or MONAILabelClient: :class:`ViewerPrompts`."""

    LABELS = "labels"
    """A label that the image has."""

    AUTOMATIC = "automatic"
    """Nowhere: every object is found."""


@dataclass(frozen=True)
class ViewerPrompts:
    """A viewer's prompts in voxel indices, of the right types but not yet compared with the image.

    Args:
        foreground: Points on the object, ``(i, j, k)``, or ``(i, j)`` for an image of one frame.
        background: Points beside it, likewise.
        region: ``(i0, i1, j0, j1, k0, k1)``, each pair in any order; without k for an image of one frame.
        slice: k. A millimetre offset if there are no points, as 3D Slicer sends it then.
    """

    foreground: Sequence[Sequence[float]] = ()
    background: Sequence[Sequence[float]] = ()
    region: Sequence[float] | None = None
    slice: float | None = None


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment.

    Args:
        window: To show the image in, or a preset's name.
        multimask: Best of three candidates or the single mask; None is as suits the model and the prompts.
        box_from_points: Whether the first two foreground points of a slice are opposite corners of a box.
        largest_component: Whether to keep the largest connected piece only.
        fill_holes: Whether to fill what the object encloses.
        max_slices: How far to follow the object beyond the slices with prompts; 0 is as far as it reaches.
    """

    window: Window | str = AUTO
    multimask: bool | None = None
    box_from_points: bool = False
    largest_component: bool = False
    fill_holes: bool = False
    max_slices: int = 0


@dataclass(frozen=True)
class LabelFormat:
    """How to write the labels.

    Args:
        extension: One of :data:`~lib.imaging.labels.label_writers.LABEL_SUFFIXES`; None is as suits the image.
        dtype: One of :data:`~lib.imaging.labels.label_writers.LABEL_DTYPES`.
        by_index: Whether the labels' voxels are all that matters, not their place in the patient.
    """

    extension: str | None = None
    dtype: str = "uint8"
    by_index: bool = False


@dataclass(frozen=True, eq=False)
class EarlierResult:
    """The result of an earlier request on the same frame by the same model.

    Args:
        prompts: What was asked.
        scores: ``(C,)`` float32 for each object, the candidate to go on from first.
        low_res_logits: ``(C, 256, 256)`` float32 for each object, likewise.
    """

    prompts: SAMPrompts
    scores: Sequence[np.ndarray]
    low_res_logits: Sequence[np.ndarray]


@dataclass(frozen=True, eq=False)
class SegmentRequest:
    """What to segment.

    Args:
        source: Where the prompts come from.
        model: The task's name.
        image: An id of the datastore, a path, or an image that was read.
        prompts: As they were sent; None for sources that have none.
        options: How to segment.
        label_format: How to write the labels; None to write no file.
        automatic: Whether every object is looked for where there is no prompt.
        image_sha256: Of the image file's content, if it is known and the image is worth finding by it.
        client: Tells one client's clicks from another's; None if it cannot be told from others.
        object_name: What the client calls the object.
        earlier: The result to go on from.
        prompting_label: The file of the label that prompts, for :attr:`Source.LABELS`; None if the image has none.
        sent_label: The file of a label that was sent along.
        save_as: The tag under which the datastore keeps the result; None not to keep it.
    """

    source: Source
    model: str
    image: str | np.ndarray | MedicalImage
    prompts: ViewerPrompts | SAMPrompts | None = None
    options: SegmentOptions = field(default_factory=SegmentOptions)
    label_format: LabelFormat | None = field(default_factory=LabelFormat)
    automatic: bool = False
    image_sha256: str | None = None
    client: str | None = None
    object_name: str | None = None
    earlier: EarlierResult | None = field(default=None, repr=False)
    prompting_label: str | None = None
    sent_label: str | None = None
    save_as: str | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> SegmentRequest:
        """Itself: MONAI Label copies its dictionaries, and nothing of a request changes."""
        return self

    def as_monai(self) -> dict[str, Any]:
        """The dictionary that MONAI Label's app and tasks take: the request, and what they themselves read.

        ``model`` chooses the task, ``image`` is looked up in the datastore and replaced by its path, ``skip_writer``
        says whether the task's writer is left out.
        """
        return {
            "model": self.model,
            "image": self.image,
            "skip_writer": self.label_format is None,
            REQUEST: self,
        }


Infer = Callable[[SegmentRequest], dict[str, Any]]
"""Runs a request's task and returns what MONAI Label's ``infer`` does: ``file``, ``label``, ``tag`` and ``params``.

``params`` is what is known of the result or, for a request without a label format, the finished data dictionary.
"""
