"""Check of JSON values that are stored with an image or a label, and later sent to any client.

Python reads and writes values that are not JSON: ``NaN``, lone surrogates, integers of any size, any depth. One such
value in the list of the images would turn each response that contains it into an error.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException

from lib.base.plain_text import is_plain

MAX_DEPTH = 32
MAX_BYTES = 1 << 20
MAX_INTEGER = 2**53 - 1
"""The largest integer that JavaScript represents exactly (RFC 8259, 6)."""

_MAX_SHOWN = 40
_INVALID = object()


def check_storable(value: object) -> None:
    """Raise if a value is not JSON that every client can read, with at most 32 levels and 1 MiB.

    Args:
        value: As a JSON parser returns it.

    Raises:
        HTTPException: 422, with the position of the first invalid value.
    """
    problems: list[str] = []
    _without_invalid(value, "", 1, problems)
    if problems:
        raise HTTPException(422, f"this cannot be stored: {problems[0]}")
    if len(json.dumps(value, ensure_ascii=False, default=str).encode()) > MAX_BYTES:
        raise HTTPException(422, f"this cannot be stored: as JSON it is larger than {MAX_BYTES} bytes")


def check_info(info: Mapping[str, Any]) -> None:
    """Raise if information about an image or a label is not storable, or a key that is read here has a wrong type.

    Raises:
        HTTPException: 422, with the position of the first invalid value.
    """
    check_storable(info)
    for key, (is_right, words) in _KNOWN_KEYS.items():
        if key in info and not is_right(info[key]):
            raise HTTPException(422, f"this cannot be stored: {key} must be {words}")


def valid_info(info: object) -> tuple[dict[str, Any], list[str]]:
    """Return information about an image or a label without the values that :func:`check_info` refuses.

    Args:
        info: Of any origin, for example an earlier version of this server.

    Returns:
        The valid values; and for each invalid value its position and what is wrong with it.
    """
    if not isinstance(info, dict):
        return {}, ["info is not an object"]
    problems: list[str] = []
    regular: dict[str, Any] = _without_invalid(info, "", 1, problems)
    for key, (is_right, words) in _KNOWN_KEYS.items():
        if key in regular and not is_right(regular[key]):
            problems.append(f"{key} is not {words}")
            del regular[key]
    return regular, problems


def is_text(value: object) -> bool:
    """Return whether a value is text that can be encoded as UTF-8."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_strategy(value: object) -> bool:
    notes = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(note, dict) and _is_number(note.get("ts", 0)) for note in notes)


_KNOWN_KEYS = {
    "ts": (_is_number, "a number, the time in seconds"),
    "name": (is_text, "a text"),
    "strategy": (_is_strategy, "an object that has an object for each strategy, whose ts is a number"),
}
"""The keys that MONAI Label or this server reads from an info: for each a check, and a description of valid values."""


def _without_invalid(value: Any, place: str, depth: int, problems: list[str]) -> Any:
    """Return a value without its invalid parts, which are added to ``problems``; ``_INVALID`` if nothing is valid."""
    problem = _problem(value, depth)
    if problem:
        problems.append(f"{place or 'the value'} {problem}")
        return _INVALID
    if isinstance(value, dict):
        found = {}
        for key, item in value.items():
            if not is_text(key):
                problems.append(f"{place or 'the value'} has a key that is not valid text")
            else:
                found[key] = _without_invalid(item, f"{place}.{_shown(key)}".lstrip("."), depth + 1, problems)
        return {key: item for key, item in found.items() if item is not _INVALID}
    if isinstance(value, (list, tuple)):
        items = [_without_invalid(item, f"{place}[{number}]", depth + 1, problems) for number, item in enumerate(value)]
        return [item for item in items if item is not _INVALID]
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _problem(value: object, depth: int) -> str:
    """Return what is wrong with a value itself, not with its items; empty if nothing is."""
    if isinstance(value, (dict, list, tuple)):
        return f"is nested deeper than {MAX_DEPTH} levels" if depth > MAX_DEPTH else ""
    if isinstance(value, str):
        return "" if is_text(value) else "is not valid text: it contains a lone surrogate"
    if isinstance(value, int):
        return "" if abs(value) <= MAX_INTEGER else f"is an integer beyond {MAX_INTEGER}, which clients would round"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "is not a finite number"
    return ""


def _shown(key: str) -> str:
    """Return a key as it is shown in a message."""
    return key if is_plain(key) and len(key) <= _MAX_SHOWN else ascii(key[:_MAX_SHOWN])
