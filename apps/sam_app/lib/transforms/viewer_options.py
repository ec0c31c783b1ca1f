"""What a user chose in a viewer's option panel, in the types that the other transforms take.

Viewers show the ``config`` of a model: a list is a choice, its first entry the default; false is a box to tick. They
send the choice back as text, number or boolean; MONAI Label fills in what they leave out, a list as a whole.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

from lib.sam.prompts import PromptError
from lib.transforms.window import AUTO

SINGLE = "single"
BEST_OF_THREE = "best of three"

_MULTIMASK = {AUTO: None, SINGLE: False, BEST_OF_THREE: True}
_FLAGS = ("box_from_points", "largest_component", "fill_holes")


def _flag(value: Any, name: str) -> bool:
    """A box that is ticked or not, as viewers send it.

    Raises:
        PromptError: If it is neither.
    """
    if isinstance(value, bool):
        return value
    texts = {"true": True, "1": True, "false": False, "0": False, "": False, "none": False}
    if str(value).lower() in texts:
        return texts[str(value).lower()]
    raise PromptError(f"{name} must be true or false")


class ViewerOptionsd(Transform):
    """Take ``candidates`` and the flags as a viewer sent them, give ``multimask`` and the flags as bool."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read them.

        Raises:
            PromptError: For a choice that there is not.
        """
        result = dict(data)
        candidates = result.get("candidates")
        if candidates is None or isinstance(candidates, (list, tuple)):  # no choice was made
            candidates = AUTO
        if candidates not in _MULTIMASK:
            raise PromptError(f"candidates can be {', '.join(_MULTIMASK)}, not {candidates!r}")
        result["multimask"] = _MULTIMASK[candidates]
        for name in _FLAGS:
            result[name] = _flag(result.get(name, False), name)
        return result
