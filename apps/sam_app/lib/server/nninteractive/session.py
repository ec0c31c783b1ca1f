"""One client's session, and what of the object's mask the client has.

The mask is the client's: it has an array of its own, and each answer replaces one box of it. So a session keeps the
mask as the client has it, and answers the box around what differs from it. What it has told a client counts only when
the answer was sent: of one that was lost the next answer tells again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lib.sam.volume.interactions import Bounds
from lib.sam.volume.interactions import Interaction as Prompt
from lib.server.http.errors import InteractionError
from lib.server.interactive.drawings import Shape, covered, places
from lib.server.interactive.marked_image import MarkedImage
from lib.server.interactive.session import MarkingSession
from lib.server.nninteractive.container import DTYPES, Packed
from lib.server.nninteractive.messages import mask_of


@dataclass(frozen=True, eq=False)
class Answer:
    """What a client is told of the mask.

    Args:
        ran: Whether a mask was made, or a step undone.
        bounds: The half-open box around what has changed; None if nothing has.
        values: The mask inside it, of the type of the client's array, 0 and 1.
    """

    ran: bool
    bounds: Bounds | None = None
    values: np.ndarray | None = None


NOTHING = Answer(ran=False)
UNCHANGED = Answer(ran=True)


@dataclass(eq=False)
class _Marked(MarkedImage):
    """An image with the object that is being marked on it, and what the client has of its mask."""

    dtype: np.dtype | None = None
    """Of the client's array, once it is known."""
    told: np.ndarray | None = None
    """The mask as the client has it, ``(n0, n1, n2)`` bool; None as long as there is no array."""
    told_before: np.ndarray | None = None
    """Likewise before the answer that is being sent."""
    waiting: int = 0
    """Steps at the end for which no mask was made yet."""


class Session(MarkingSession[_Marked]):
    """One client's session."""

    @property
    def shape(self) -> Shape:
        """Shape of the image.

        Raises:
            InteractionError: If there is none.
        """
        return self._ready().image.shape

    def set_image(self, packed: Packed, spacing: tuple[float, float, float]) -> None:
        """Begin anew, with another image.

        Args:
            packed: ``(1, n0, n1, n2)``; the caller has reserved memory for unpacking it.
            spacing: In mm, positive.

        Raises:
            InteractionError: If it is not one volume of one channel.
            ImageTooLargeError: If there is not enough memory for it.
            ContainerError: If it cannot be unpacked.
        """
        if len(packed.shape) != 4 or packed.shape[0] != 1 or 0 in packed.shape:
            raise InteractionError(
                f"the image has the shape {list(packed.shape)}; it must be one channel of a volume, [1, n0, n1, n2]"
            )
        self._marked = None  # whose memory may be needed
        shape = packed.shape[1], packed.shape[2], packed.shape[3]
        self._marked = _Marked.of(lambda: packed.unpacked()[0], shape, packed.dtype, spacing, self.memory)
        self.predictor()  # loaded now, as clients wait longer for this than for a mask

    def set_target_buffer(self, shape: Shape, dtype: str) -> None:
        """Begin an empty mask, and encode the slices on which the first prompt is likely.

        Args:
            shape: Of the client's array.
            dtype: Its type, one of :data:`~lib.server.nninteractive.container.DTYPES`.

        Raises:
            InteractionError: If there is no image, or it has another shape.
        """
        marked = self._with_image()
        if shape != marked.image.shape:
            raise InteractionError(f"the buffer has the shape {list(shape)}; the image has {list(marked.image.shape)}")
        marked.dtype = DTYPES[dtype]
        marked.told, marked.told_before = np.zeros(shape, dtype=bool), None
        marked.encode_ahead(self.predictor(), self.token, self.ahead)

    def reset(self) -> None:
        """Forget the object and its mask; the image stays. The client has emptied its array before it asks."""
        if self._marked is None:
            return
        self._marked.annotation.reset()
        self._marked.waiting, self._marked.is_behind = 0, False
        if self._marked.told is not None:
            self._marked.told, self._marked.told_before = np.zeros_like(self._marked.told), None

    def add(self, prompt: Prompt, *, run: bool, seconds: float) -> Answer:
        """Add a prompt; if that fails, everything is as it was.

        Args:
            prompt: Inside the image.
            run: Whether to make the mask now.
            seconds: Time for that; what is not found by then is told by a later answer.

        Raises:
            InteractionError: If there is no image, or no array for its mask.
            PromptError: If there are too many prompts, or the model cannot be asked like this.
        """
        marked = self._ready()
        self.limits.check_prompts(sum(self.counts().values()) + 1)
        marked.annotation.add(prompt)
        if not run:
            marked.waiting += 1
            return NOTHING
        try:
            return self._run(marked, seconds)
        except BaseException:
            marked.annotation.undo()
            raise

    def start_from(self, packed: Packed, *, run: bool, seconds: float) -> Answer:
        """Begin with a mask, which the client has put into its own array before it asks.

        Args:
            packed: Its values, of the image's shape; what is not zero.
            run: Whether to refine it now; if that fails, it is the mask as it is.
            seconds: As for :meth:`add`.

        Raises:
            InteractionError: If it has another shape; as for :meth:`add`.
            ContainerError: If it cannot be unpacked.
            PromptError: If the model does not start from a mask.
        """
        marked = self._ready()
        mask = mask_of(packed, marked.image.shape)
        marked.annotation.start_from(mask, refine=run)
        marked.told, marked.told_before = mask, None
        marked.waiting, marked.is_behind = 0, False
        if not run:
            return NOTHING
        try:
            return self._run(marked, seconds)
        except BaseException:
            marked.annotation.undo()
            marked.annotation.start_from(mask)
            raise

    def undo(self, *, seconds: float) -> Answer:
        """Take back the last step, if there is one. ``seconds`` is as for :meth:`add`."""
        marked = self._marked
        if marked is None or marked.told is None or not marked.annotation.undo():
            return NOTHING
        if marked.waiting:  # of which the client has seen nothing
            marked.waiting -= 1
            return UNCHANGED
        try:
            return self._run(marked, seconds)
        except BaseException:
            marked.annotation.redo()
            raise

    def predict(self, *, seconds: float) -> Answer:
        """Make the mask of all prompts, if that has not been done. ``seconds`` is as for :meth:`add`."""
        marked = self._ready()
        if not marked.waiting and not marked.is_behind:
            return NOTHING
        return self._run(marked, seconds)

    def answer_sent(self, *, is_lost: bool) -> None:
        """Note that the last answer was sent, or that it was lost, as the client has left before."""
        if self._marked is not None:
            if is_lost and self._marked.told_before is not None:
                self._marked.told = self._marked.told_before
                self._marked.is_behind = True
            self._marked.told_before = None

    def _with_image(self) -> _Marked:
        if self._marked is None:
            raise InteractionError("there is no image: send one first (/set_image)")
        return self._marked

    def _ready(self) -> _Marked:
        marked = self._with_image()
        if marked.told is None:
            raise InteractionError("there is no array for the mask: say which (/set_target_buffer)")
        return marked

    def _run(self, marked: _Marked, seconds: float) -> Answer:
        """Make the mask of all steps, and return how it differs from the client's."""
        mask = marked.mask(self.predictor(), through_volume=self.through_volume, seconds=seconds)
        answer = self._tell(marked, mask)
        marked.waiting = 0
        return answer

    def _tell(self, marked: _Marked, mask: np.ndarray) -> Answer:
        """Return how a mask differs from the client's, which is this one from now on."""
        marked.told, marked.told_before = mask, marked.told
        assert marked.told_before is not None and marked.dtype is not None, "there is an array for the mask"
        bounds = covered_by_difference(marked.told_before, mask)
        if bounds is None:
            return UNCHANGED
        return Answer(True, bounds, mask[places(bounds)].astype(marked.dtype))


def covered_by_difference(before: np.ndarray, after: np.ndarray) -> Bounds | None:
    """Return the tight box around where two 3-D masks of one shape differ; None if nowhere."""
    low, high = 0, len(before)
    while low < high and np.array_equal(before[low], after[low]):
        low += 1
    while high > low and np.array_equal(before[high - 1], after[high - 1]):
        high -= 1
    bounds = covered(before[low:high] != after[low:high]) if low < high else None
    return bounds and ((bounds[0][0] + low, bounds[0][1] + low), *bounds[1:])
