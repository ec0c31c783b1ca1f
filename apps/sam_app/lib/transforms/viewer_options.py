"""Convert options of a viewer's panel to the types of :class:`~lib.transforms.request.SegmentOptions`.

Viewers show a model's ``config``: a list as a choice, with its first entry as the default; false as a checkbox. They
send the choice as text, number or boolean, or the whole list if nothing was chosen. An option of another type is
refused, as it would have no effect without the user knowing.
"""

import math
from collections.abc import Collection, Mapping
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
    """Convert the state of a checkbox, as viewers send it, to a bool.

    Raises:
        PromptError: If it is neither true nor false.
    """
    if isinstance(value, bool):
        return value
    texts = {"true": True, "1": True, "yes": True, "on": True}
    texts |= {"false": False, "0": False, "no": False, "off": False, "": False, "none": False}
    if str(value).lower() in texts:
        return texts[str(value).lower()]
    raise PromptError(f"{name} must be true or false")


def one_of(value: Any, name: str, choices: Collection[str]) -> Any:
    """Return a value that must be one of a few texts.

    Raises:
        PromptError: If it is another one.
    """
    if not isinstance(value, str) or value not in choices:
        raise PromptError(f"{name} can be {', '.join(choices)}, not {shown(value)}")
    return value


def _choice(value: Any, name: str, choices: list[str]) -> str:
    """Return the chosen one of several values; the first if none was chosen."""
    is_unset = value in (None, "") or value == choices
    return choices[0] if is_unset else one_of(value, name, choices)


def as_multimask(value: Any, name: str) -> bool | None:
    """Return whether to choose the best of three candidates; None: depends on the model and the prompts.

    Raises:
        PromptError: If the value is not one of :data:`CANDIDATES`.
    """
    return _MULTIMASK[_choice(value, name, CANDIDATES)]


def as_count(value: Any, name: str) -> int:
    """Convert a number of slices or steps, also given as text; 0 if there is none.

    Raises:
        PromptError: If it is not a whole number of at least 0.
    """
    try:
        count = 0 if value in (None, "") else int(str(value))
    except ValueError:
        count = -1
    if count < 0:
        raise PromptError(f"{name} must be a whole number of at least 0, not {shown(value)}")
    return count


def as_seconds(value: Any, name: str) -> float:
    """Convert a time, also given as text; 0 if there is none.

    Raises:
        PromptError: If it is neither 0 nor a finite number of at least 1.
    """
    try:
        seconds = 0.0 if value in (None, "") else float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        seconds = math.nan
    if not (seconds == 0 or 1 <= seconds < math.inf):
        raise PromptError(f"{name} must be a number of seconds of at least 1, or 0 for no limit, not {shown(value)}")
    return seconds


def as_slices(value: Any, name: str) -> tuple[int, int] | None:
    """Return the first and the last of some slices, given in any order; None for None or an empty list.

    Raises:
        PromptError: If these are not two whole numbers of at least 0.
    """
    if value is None or value == []:
        return None
    if not isinstance(value, (list, tuple)) or len(value) != 2 or not all(map(_is_number, value)):
        raise PromptError(f"{name} must be the first and the last slice, [k0, k1], not {shown(value)}")
    if not all(k >= 0 and k == k // 1 for k in value):
        raise PromptError(f"{name} must be whole numbers of at least 0, not {shown(value)}")
    return int(min(value)), int(max(value))


def as_window(value: Any, name: str) -> Window | str:
    """Convert a window in the REST API's format, or return a preset's name.

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
    """Return a value as text for a message, shortened if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
