"""What one request may ask for at most."""

from dataclasses import dataclass

from lib.imaging.decoding.isolation import claim_for_caller
from lib.imaging.decoding.memory_budget import working_bytes
from lib.imaging.image import ImageTooLargeError
from lib.sam.prompts import PromptError


@dataclass(frozen=True)
class Limits:
    """Bounds on an image, which are checked by its header before anything is decoded, and on what is asked of it.

    Args:
        max_pixels: Frames x rows x columns; by default some 2,000 CT slices, 1 GiB as 16-bit values.
        max_frames: Frames, slices or pages.
        max_prompts: Points, rectangles and drawings.
    """

    max_pixels: int = 512 * 512 * 2048
    max_frames: int = 4096
    max_prompts: int = 1000

    def check(self, frames: int, rows: int, columns: int) -> None:
        """Refuse an image that is larger, or for whose segmentation there is not enough memory.

        Args:
            frames: As the header states them; so, too, ``rows`` and ``columns``.
            rows: Height.
            columns: Width.

        Raises:
            ImageTooLargeError: If the image has more frames or more pixels.
            ImageError: If a worker process is not granted the memory.
        """
        if frames > self.max_frames:
            raise ImageTooLargeError(f"the image has {frames} frames; at most {self.max_frames} are read")
        count = frames * rows * columns
        if count > self.max_pixels:
            raise ImageTooLargeError(f"the image has {count} pixels; at most {self.max_pixels} are read")
        claim_for_caller(working_bytes((rows, columns)))

    def check_prompts(self, count: int) -> None:
        """Raise :class:`PromptError` for a request with more points, rectangles and drawings."""
        if count > self.max_prompts:
            raise PromptError(f"there are {count} points and rectangles; at most {self.max_prompts} are allowed")


DEFAULT_LIMITS = Limits()
