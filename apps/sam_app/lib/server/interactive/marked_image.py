"""An image as a client sent it, the object that is marked on it, and the memory that both take."""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from lib.base.clock import current_clock
from lib.imaging.decoding.memory_budget import MemoryBudget, Reservation
from lib.imaging.decoding.piecewise import finite, piecewise
from lib.imaging.image import ImageTooLargeError, MedicalImage
from lib.infers.prefetch import nearest_first
from lib.sam.predictor import Predictor
from lib.sam.volume.annotation import Annotation
from lib.server.interactive.drawings import Shape
from lib.transforms.window import choose_window, windowed_frame

_MEBIBYTE = 2**20

M = TypeVar("M", bound="MarkedImage")


def known_spacing(stated: Sequence[float]) -> tuple[float, float, float]:
    """Return a spacing in mm, positive, and 1 where it is not known. A viewer's axis can be flipped: a negative one."""
    s0, s1, s2 = (abs(step) if step and np.isfinite(step) else 1.0 for step in stated)
    return s0, s1, s2


def reserve(budget: MemoryBudget, size: int) -> Reservation:
    """Reserve memory for a session.

    Raises:
        ImageTooLargeError: If it is more than all sessions may have together, or than others leave.
    """
    reserved = budget.try_reserve(size)
    if reserved is None:
        raise ImageTooLargeError(
            f"{size / _MEBIBYTE:.0f} MiB of memory are needed, which other sessions use (nninteractive_max_mb); "
            "try again later"
        )
    return reserved


class SentImage:
    """An image as a client sent it, with one window for all of it.

    Args:
        values: ``(n0, n1, n2)``, any number type; NaN and infinities count as the smallest finite value.
    """

    def __init__(self, values: np.ndarray) -> None:
        if values.dtype.kind == "f":
            if values.dtype != np.float32:
                with np.errstate(over="ignore"):
                    values = piecewise(_as_float32, values, np.empty(values.shape, np.float32))
            values = finite(values)
        elif values.dtype == bool:
            values = values.view(np.uint8)
        self.shape: Shape = (values.shape[0], values.shape[1], values.shape[2])
        self._along = [MedicalImage(np.moveaxis(values, axis, 0), is_geometric=True) for axis in range(3)]
        self._window, _ = choose_window(self._along[0], self.shape[0] // 2)

    def picture(self, axis: int, k: int) -> np.ndarray:
        """Return slice k along an axis, windowed, ``(H, W, 3)`` uint8; columns are the later remaining axis."""
        with current_clock().stage("window"):
            return windowed_frame(self._along[axis], k, self._window)


def _as_float32(piece: np.ndarray) -> np.ndarray:
    return piece.astype(np.float32)


@dataclass(eq=False)
class MarkedImage:
    """An image with the object that is being marked on it; made by :meth:`of`.

    Args:
        image: The image.
        sha256: SHA-256 of its type, shape and values, in hexadecimal.
        annotation: The object.
        budget: What all sessions may hold together.
        memory: What this one holds of it.
        image_bytes: Of the image alone.
    """

    image: SentImage
    sha256: str
    annotation: Annotation
    budget: MemoryBudget
    memory: Reservation
    image_bytes: int
    is_behind: bool = False
    """Whether the last mask has not all that is to be found, for want of time."""

    @classmethod
    def of(
        cls: type[M],
        read: Callable[[], np.ndarray],
        shape: Shape,
        dtype: np.dtype,
        spacing: tuple[float, float, float],
        budget: MemoryBudget,
    ) -> M:
        """Reserve memory for an image, read it, and begin an object without prompts.

        Args:
            read: Returns its values, when there is memory for them.
            shape: Theirs, ``(n0, n1, n2)``, all positive.
            dtype: Their type.
            spacing: In mm, positive.
            budget: What all sessions may hold together.

        Raises:
            ImageTooLargeError: If there is not enough memory.
            Exception: What ``read`` raises.
        """
        voxels = shape[0] * shape[1] * shape[2]
        image_bytes = voxels * (4 if dtype.kind == "f" else dtype.itemsize)
        reserved = reserve(budget, image_bytes + _masks_bytes(voxels))
        with current_clock().stage("read"):
            values = read()
            digest = hashlib.sha256(f"{values.dtype}|{values.shape}|".encode())
            digest.update(values.data)
        with current_clock().stage("window"):
            image = SentImage(values)
        annotation = Annotation(image.shape, spacing, image.picture)
        return cls(image, digest.hexdigest(), annotation, budget, reserved, image_bytes)

    def encode_ahead(self, predictor: Predictor, owner: str, count: int) -> None:
        """Encode so many slices on which the first prompt is likely, in the background.

        Args:
            predictor: The model.
            owner: Whose earlier requests to encode are replaced.
            count: From the middle of the default axis outwards.
        """
        if not count:
            return
        axis = self.annotation.default_axis
        length = self.image.shape[axis]
        order = [length // 2, *nearest_first(length // 2, length, count - 1)]
        image = weakref.ref(self.image)
        predictor.prefetch_embedding(owner, [partial(_picture, image, axis, k) for k in order])

    def mask(self, predictor: Predictor, *, through_volume: bool, seconds: float) -> np.ndarray:
        """Return the mask of all steps, bool of the image's shape, as far as it is found in this time.

        Args:
            predictor: The model.
            through_volume: Whether the object is followed; if not, it is found only on slices with prompts.
            seconds: After these, what was found is returned; :attr:`is_behind` is true then.

        Raises:
            PromptError: If the model takes no prompts of such a kind.
            ImageTooLargeError: If there is not enough memory for what was found.
        """
        mask = self.annotation.update(predictor, through_volume=through_volume, seconds=seconds)
        needed = self.image_bytes + _masks_bytes(mask.size) + self.annotation.nbytes
        if needed > self.memory.size:
            self.memory.absorb(reserve(self.budget, needed - self.memory.size))
        self.memory.shrink(needed)
        self.is_behind = not self.annotation.is_complete
        return mask


def _masks_bytes(voxels: int) -> int:
    """Bytes of a mask as it was told, as it is told, and as it is made."""
    return 3 * voxels


def _picture(image: weakref.ref[SentImage], axis: int, k: int) -> np.ndarray | None:
    """Return a slice of an image for encoding it ahead; None if the image is gone."""
    sent = image()
    return None if sent is None else sent.picture(axis, k)
