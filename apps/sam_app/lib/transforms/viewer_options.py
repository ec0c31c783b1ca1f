"""What a user chose in a viewer's option panel, in the types of :class:`~lib.transforms.request.SegmentOptions`.

Viewers show the ``config`` of a model: a list is a choice, its first entry the default; false is a box to tick. They
send the choice back as text, number or boolean, a list also as a whole. An option of another type is refused: it would
have no effect without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lib.imaging.image import Window
from lib.sam.prompts import PromptError
from lib.transforms.request import AUTO
from lib.transforms.window import PRESETS

SINGLE = "single"
BEST_OF_THREE = "best of three"
WINDOWS = [AUTO, *PRESETS]
"""The choices of ``window``."""

CANDIDATES = [AUTO, SINGLE, BEST_OF_THREE]
"""The choices of ``candidates``."""

_MULTIMASK = {AUTO: None, SINGLE: False, BEST_OF_THREE: True}


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
        raise PromptError(f"{name} can be {', '.join(choices)}, not {shown(value)}")
    return value


def as_multimask(value: Any, name: str) -> bool | None:
    """Whether to choose the best of three candidates; None is as suits the model and the prompts.

    Raises:
        PromptError: If there is no such choice.
    """
    return _MULTIMASK[_choice(value, name, CANDIDATES)]


def as_slice_count(value: Any, name: str) -> int:
    """A number of slices, also as text; 0 for as many as there are.

    Raises:
        PromptError: If it is none.
    """
    try:
        count = 0 if value in (None, "") else int(str(value))
    except ValueError:
        count = -1
    if count < 0:
        raise PromptError(f"{name} must be a whole number, 0 for as many as there are, not {shown(value)}")
    return count


def as_window(value: Any, name: str) -> Window | str:
    """A window, as the REST API has it, or a preset's name.

    Raises:
        PromptError: If it is neither.
    """
    if not isinstance(value, Mapping):
        try:
            return _choice(value, name, WINDOWS)
        except PromptError as error:
            raise PromptError(f'{error}; or {{"center": 40, "width": 400}}') from None
    numbers = [value.get("center"), value.get("width")]
    if value.keys() != {"center", "width"} or not all(map(_is_number, numbers)):
        raise PromptError(f"{name} must have center and width, both numbers, and nothing else")
    try:
        return Window(*map(float, numbers))  # type: ignore[arg-type]
    except (ValueError, OverflowError) as error:
        raise PromptError(f"{name}: {error}") from None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value as it can stand in a message."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
