"""A segmentation request: created once by the route, and only read by tasks and transforms.

It is stored under the key :data:`REQUEST` of MONAI's data dictionary; the other keys are set by the transforms, see
:mod:`lib.transforms`, or read by MONAI Label itself, see :meth:`SegmentRequest.as_monai`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from lib.imaging.image import MedicalImage, Window
from lib.transforms.sam_input import DEFAULT_LINE_WIDTH, SAMPrompts

REQUEST = "request"

AUTO = "auto"
"""Value of a viewer's option: choose what suits the image."""


class Source(StrEnum):
    """Where the prompts come from."""

    REST = "rest"
    """A client of the REST routes: :class:`~lib.transforms.sam_input.SAMPrompts`."""

    VIEWER = "viewer"
    """OHIF, 3D Slicer or MONAILabelClient: :class:`ViewerPrompts`."""

    LABELS = "labels"
    """The image's label."""

    AUTOMATIC = "automatic"
    """No prompts: every object is found."""


@dataclass(frozen=True)
class Drawing:
    """A viewer's scribble, a line through points, or lasso, an outline; all on one slice.

    Args:
        points: As of :class:`ViewerPrompts`; what is outside the image in its plane is left out.
        positive: Whether it is on or around the object; if not, beside it.
        width: Of a line, in pixels.
    """

    points: Sequence[Sequence[float]]
    positive: bool = True
    width: float = DEFAULT_LINE_WIDTH


@dataclass(frozen=True)
class ViewerPrompts:
    """A viewer's prompts in voxel indices, with checked types but not yet checked against the image.

    Args:
        foreground: Points on the object, ``(i, j, k)``, or ``(i, j)`` for an image of one frame.
        background: Points on the background, likewise.
        region: ``(i0, i1, j0, j1, k0, k1)``, each pair in any order; without k for an image of one frame.
        slice: k; without points it is a millimetre offset, as 3D Slicer sends it.
        scribbles: Lines drawn on the object or beside it.
        lassos: Outlines around the object, or around what does not belong to it.
    """

    foreground: Sequence[Sequence[float]] = ()
    background: Sequence[Sequence[float]] = ()
    region: Sequence[float] | None = None
    slice: float | None = None
    scribbles: Sequence[Drawing] = ()
    lassos: Sequence[Drawing] = ()

    @property
    def count(self) -> int:
        """Number of points and drawings."""
        return len(self.foreground) + len(self.background) + len(self.scribbles) + len(self.lassos)

    def extends(self, other: ViewerPrompts) -> bool:
        """Return whether all of the others are among these, and the region is the same."""
        kinds = ("foreground", "background", "scribbles", "lassos")
        return self.region == other.region and all(set(getattr(other, k)) <= set(getattr(self, k)) for k in kinds)


@dataclass(frozen=True)
class SegmentOptions:
    """How to segment.

    Args:
        window: Window to show the image with, or a preset's name.
        multimask: Best of three candidates or the single mask; None: depends on the model and the prompts.
        box_from_points: Whether the first two foreground points of a slice are opposite corners of a box.
        largest_component: Whether to keep the largest connected piece only; None: for what finds labels by itself,
            depends on the label; else not.
        fill_holes: Whether to fill background that the object encloses.
        max_slices: How many slices to follow the object beyond those with prompts; 0: no limit.
        slices: The first and the last slice on which to look for the object; None: all.
        seconds: Time after which what was found in a volume is the answer; the same prompts go on. 0: no limit.
        start_from_label: Whether the prompts correct the object of the prompting label.
        protect: Whether the other objects of the image's label are left as they are.
        undo: How many of the client's steps to undo: the answer is that to the prompts that it had sent before them.
    """

    window: Window | str = AUTO
    multimask: bool | None = None
    box_from_points: bool = False
    largest_component: bool | None = None
    fill_holes: bool = False
    max_slices: int = 0
    slices: tuple[int, int] | None = None
    seconds: float = 0
    start_from_label: bool = False
    protect: bool = False
    undo: int = 0


@dataclass(frozen=True)
class LabelFormat:
    """How to write the labels.

    Args:
        extension: One of :data:`~lib.imaging.labels.label_writers.LABEL_SUFFIXES`; None: what suits the image.
        dtype: One of :data:`~lib.imaging.labels.label_writers.LABEL_DTYPES`.
        by_index: Whether only the labels' voxel indices matter, not their position in the patient.
    """

    extension: str | None = None
    dtype: str = "uint8"
    by_index: bool = False


@dataclass(frozen=True, eq=False)
class EarlierResult:
    """The result of an earlier request on the same frame by the same model.

    Args:
        prompts: Its prompts.
        scores: ``(C,)`` float32 for each object, the candidate to refine first.
        low_res_logits: ``(C, S, S)`` float32 for each object, likewise.
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
        image: An id of the datastore, a path, an array, or an image that was already read.
        prompts: The prompts as sent; None for sources without prompts.
        options: How to segment.
        label_format: How to write the labels; None to write no file.
        automatic: Whether to find every object if there is no prompt.
        image_key: Names the image's content in the cache of images, if it is known.
        client: Key that separates clients' clicks; None if the client cannot be distinguished from others.
        object_name: The client's name for the object.
        earlier: The result to refine.
        prompting_label: The file of the label that prompts, for :attr:`Source.LABELS`, or that is started from; None if
            there is none.
        protecting_label: The file of the label whose other objects are protected; None if there is none.
        label_value: The object's number in these labels; None if it is not known, or not in them.
        sent_label: The file of a label sent with the image.
        save_as: The tag under which the datastore stores the result; None: it is not stored.
    """

    source: Source
    model: str
    image: str | np.ndarray | MedicalImage
    prompts: ViewerPrompts | SAMPrompts | None = None
    options: SegmentOptions = field(default_factory=SegmentOptions)
    label_format: LabelFormat | None = field(default_factory=LabelFormat)
    automatic: bool = False
    image_key: str | None = None
    client: str | None = None
    object_name: str | None = None
    earlier: EarlierResult | None = field(default=None, repr=False)
    prompting_label: str | None = None
    protecting_label: str | None = None
    label_value: int | None = None
    sent_label: str | None = None
    save_as: str | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> SegmentRequest:
        """Return itself: MONAI Label copies its dictionaries, and a request never changes."""
        return self

    def as_monai(self) -> dict[str, Any]:
        """Return the dictionary that MONAI Label's app and tasks take: the request, and the keys that they read.

        ``model`` chooses the task, ``image`` is looked up in the datastore and replaced by its path, ``skip_writer``
        says whether the task's writer is skipped.
        """
        return {
            "model": self.model,
            "image": self.image,
            "skip_writer": self.label_format is None,
            REQUEST: self,
        }


Infer = Callable[[SegmentRequest], dict[str, Any]]
"""Runs a request's task and returns what MONAI Label's ``infer`` does: ``file``, ``label``, ``tag`` and ``params``.

``params`` are the facts about the result or, for a request without a label format, the final data dictionary.
"""
