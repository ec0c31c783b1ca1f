"""One client's session: every answer is the whole mask of its object, as ITK-SNAP replaces its own by it."""

from __future__ import annotations

import math
from typing import BinaryIO

import numpy as np

from lib.imaging.image import ImageTooLargeError
from lib.sam.volume.interactions import Interaction, Lasso, Scribble
from lib.server.http.errors import InteractionError
from lib.server.interactive.drawings import Shape, drawing
from lib.server.interactive.marked_image import MarkedImage, reserve
from lib.server.interactive.session import MarkingSession
from lib.server.itksnap.arrays import inflated
from lib.server.itksnap.messages import Metadata

_FLOAT32 = np.dtype(np.float32)


class Session(MarkingSession[MarkedImage]):
    """One client's session."""

    @property
    def shape(self) -> Shape:
        """Shape of the image, ``(nz, ny, nx)``.

        Raises:
            InteractionError: If there is none.
        """
        return self._with_image().image.shape

    def set_image(self, file: BinaryIO, metadata: Metadata) -> None:
        """Begin anew, with another image.

        Args:
            file: See :func:`~lib.server.itksnap.arrays.inflated`.
            metadata: Its sizes and spacing.

        Raises:
            InteractionError: If the model is for one slice, and these are several.
            ImageTooLargeError: If it has more voxels than allowed, or there is not enough memory for it.
            ContainerError: If it cannot be inflated.
        """
        shape = metadata.shape
        voxels = math.prod(shape)
        if voxels > self.limits.max_pixels:
            raise ImageTooLargeError(f"the image has {voxels} voxels; at most {self.limits.max_pixels} are read")
        if not self.through_volume and shape[0] > 1:
            raise InteractionError(f"the model is for one slice, and the image has {shape[0]}: choose a 3D model")
        self._marked = None  # whose memory may be needed
        spare = reserve(self.memory, voxels * _FLOAT32.itemsize)  # for replacing what is no number
        self._marked = MarkedImage.of(
            lambda: inflated(file, shape, _FLOAT32), shape, _FLOAT32, metadata.spacing_zyx, self.memory
        )
        spare.release()
        self._marked.encode_ahead(self.predictor(), self.token, self.ahead)

    def drawing(
        self, kind: type[Scribble] | type[Lasso], file: BinaryIO, metadata: Metadata, is_foreground: bool
    ) -> Scribble | Lasso:
        """Return what was drawn on the image; it may be empty.

        Args:
            kind: Which it is.
            file: A mask of the whole image, as for :meth:`set_image`: what is not zero.
            metadata: Its sizes.
            is_foreground: Whether it is on the object; if not, it is beside it.

        Raises:
            InteractionError: If it has other sizes than the image, or is a lasso that is not in one plane.
            ImageTooLargeError: If there is not enough memory for it.
            ContainerError: If it cannot be inflated.
        """
        shape = self.shape
        if metadata.shape != shape:
            raise InteractionError(
                f"the drawing has {list(metadata.shape[::-1])} voxels; it must have {list(shape[::-1])} as the image"
            )
        held = reserve(self.memory, math.prod(shape))
        drawn = drawing(kind, inflated(file, shape, np.dtype(bool)), is_foreground)
        held.release()
        return drawn

    def add(self, prompt: Interaction, *, seconds: float) -> np.ndarray:
        """Add a prompt and return the mask, bool of the image's shape; if that fails, everything is as it was.

        Args:
            prompt: Inside the image; an empty drawing changes nothing.
            seconds: Time for the mask; what is not found by then is told by a later answer.

        Raises:
            InteractionError: If there is no image.
            PromptError: If there are too many prompts, or the model cannot be asked like this.
            ImageTooLargeError: If there is not enough memory for what was found.
        """
        marked = self._with_image()
        is_empty = isinstance(prompt, (Scribble, Lasso)) and prompt.is_empty
        if not is_empty:
            self.limits.check_prompts(sum(self.counts().values()) + 1)
            marked.annotation.add(prompt)
        try:
            return marked.mask(self.predictor(), through_volume=self.through_volume, seconds=seconds)
        except BaseException:
            if not is_empty:
                marked.annotation.undo()
            raise

    def reset(self) -> None:
        """Forget the object; the image stays."""
        if self._marked is not None:
            self._marked.annotation.reset()
            self._marked.is_behind = False

    def _with_image(self) -> MarkedImage:
        if self._marked is None:
            raise InteractionError("there is no image: send one first (/upload_raw)")
        return self._marked
