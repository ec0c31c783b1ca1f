"""What a user chose in a viewer's option panel, in the types that the other transforms take.

Viewers show the ``config`` of a model: a list is a choice, its first entry the default; false is a box to tick. They
send the choice back as text, number or boolean; MONAI Label fills in what they leave out, a list as a whole. What is
not known is left out, but a known option of another type is refused: it would have no effect without a word.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.transforms import Transform

from lib.imaging.image import Window
from lib.sam.prompts import PromptError
from lib.transforms.window import AUTO, PRESETS

SINGLE = "single"
BEST_OF_THREE = "best of three"
WINDOWS = [AUTO, *PRESETS]
"""The choices of ``window``."""

CANDIDATES = [AUTO, SINGLE, BEST_OF_THREE]
"""The choices of ``candidates``."""

_MULTIMASK = {AUTO: None, SINGLE: False, BEST_OF_THREE: True}
_FLAGS = ("box_from_points", "largest_component", "fill_holes")


def as_flag(value: Any, name: str) -> bool:
    """A box that is ticked or not, as viewers send it.

    Raises:
        PromptError: If it is neither.
    """
    if isinstance(value, bool):
        return value
    texts = {"true": True, "1": True, "yes": True, "on": True}
    texts |= {"false": False, "0": False, "no": False, "off": False, "": False, "none": False}
    if str(value).lower() in texts:
        return texts[str(value).lower()]
    raise PromptError(f"{name} must be true or false")


def _choice(value: Any, name: str, choices: list[str]) -> str:
    """One of several; the first if none was made.

    Raises:
        PromptError: If there is no such choice.
    """
    if value in (None, "") or value == choices:
        return choices[0]
    if not isinstance(value, str) or value not in choices:
        raise PromptError(f"{name} can be {', '.join(choices)}, not {_shown(value)}")
    return value


def _window(value: Any) -> Window | str:
    """A window, as the REST API has it, or a preset's name.

    Raises:
        PromptError: If it is neither.
    """
    if not isinstance(value, Mapping):
        try:
            return _choice(value, "window", WINDOWS)
        except PromptError as error:
            raise PromptError(f'{error}; or {{"center": 40, "width": 400}}') from None
    numbers = [value.get("center"), value.get("width")]
    if value.keys() != {"center", "width"} or not all(map(_is_number, numbers)):
        raise PromptError("window must have center and width, both numbers, and nothing else")
    try:
        return Window(*map(float, numbers))  # type: ignore[arg-type]
    except (ValueError, OverflowError) as error:
        raise PromptError(f"window: {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    """A value as it can stand in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def check_options(options: Mapping[str, Any]) -> None:
    """Whether the options of a request can be read, before anything is done for it.

    Raises:
        PromptError: As :class:`ViewerOptionsd`.
    """
    ViewerOptionsd()(dict(options.items()))


class ViewerOptionsd(Transform):
    """Take ``window``, ``candidates`` and the flags as a viewer sent them, in the types that the other transforms take.

    Gives ``window`` as :class:`~lib.imaging.image.Window` or a preset's name, ``multimask``, and the flags as bool.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Read them.

        Raises:
            PromptError: For a choice that there is not, or a value of another type; it names the option.
        """
        result = dict(data)
        result["window"] = _window(result.get("window"))
        result["multimask"] = _MULTIMASK[_choice(result.get("candidates"), "candidates", CANDIDATES)]
        for name in _FLAGS:
            result[name] = as_flag(result.get(name, False), name)
        return result
