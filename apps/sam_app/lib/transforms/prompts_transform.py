"""Base class of the transforms that map a client's prompts."""

from collections.abc import Sequence

from lib.imaging.limits import DEFAULT_LIMITS, Limits
from lib.imaging.readers import read_image
from lib.sam.models.registry import ALL_PROMPTS, PromptKind
from lib.transforms.present_labels import ReadLabel


class PromptsTransform:
    """What every one of them is made with.

    Args:
        limits: A request with more points, rectangles and drawings is refused.
        kinds: Of prompts that the model was trained with.
        read: Reads the label to start from.
    """

    def __init__(
        self,
        limits: Limits = DEFAULT_LIMITS,
        kinds: Sequence[PromptKind] = ALL_PROMPTS,
        read: ReadLabel = read_image,
    ) -> None:
        self.limits = limits
        self._kinds = kinds
        self._read = read
