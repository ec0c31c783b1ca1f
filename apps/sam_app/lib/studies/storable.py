"""What may be kept as JSON beside an image or a label, and sent to every client again.

Python's JSON reads and writes more than JSON is: ``NaN``, halves of surrogate pairs, integers of any size, any depth.
One such value in the list of the images would make each answer that holds it an error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from fastapi import HTTPException

from lib.base.plain_text import is_plain

MAX_DEPTH = 32
MAX_BYTES = 1 << 20
MAX_INTEGER = 2**53 - 1
"""The largest integer that JavaScript tells from its neighbours (RFC 8259, 6)."""

_MAX_SHOWN = 40
_ODD = object()


def check_storable(value: object) -> None:
    """Whether a value is JSON that every client can hold, of at most 32 levels and 1 MiB.

    Args:
        value: As a JSON parser returns it.

    Raises:
        HTTPException: 422, with the place of what is odd.
    """
    odd: list[str] = []
    _regular(value, "", 1, odd)
    if odd:
        raise HTTPException(422, f"this cannot be kept: {odd[0]}")
    if len(json.dumps(value, ensure_ascii=False, default=str).encode()) > MAX_BYTES:
        raise HTTPException(422, f"this cannot be kept: as JSON it is larger than {MAX_BYTES} bytes")


def check_info(info: Mapping[str, Any]) -> None:
    """As :func:`check_storable`, of what is known of an image or a label: some of its keys have a meaning here.

    Raises:
        HTTPException: 422, with the place of what is odd.
    """
    check_storable(info)
    for key, (is_right, words) in _WITH_MEANING.items():
        if key in info and not is_right(info[key]):
            raise HTTPException(422, f"this cannot be kept: {key} must be {words}")


def regular_info(info: object) -> tuple[dict[str, Any], list[str]]:
    """What is known of an image or a label, without what :func:`check_info` refuses.

    Args:
        info: By whomever it was stored.

    Returns:
        The rest; and why each of the others was left out, with its place.
    """
    if not isinstance(info, dict):
        return {}, ["info is no object"]
    odd: list[str] = []
    regular: dict[str, Any] = _regular(info, "", 1, odd)
    for key, (is_right, words) in _WITH_MEANING.items():
        if key in regular and not is_right(regular[key]):
            odd.append(f"{key} is not {words}")
            del regular[key]
    return regular, odd


def is_text(value: object) -> bool:
    """Whether it is text that UTF-8 can hold."""
    return isinstance(value, str) and not any("\ud800" <= char <= "\udfff" for char in value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_strategy(value: object) -> bool:
    notes = value.values() if isinstance(value, dict) else [None]
    return all(isinstance(note, dict) and _is_number(note.get("ts", 0)) for note in notes)


_WITH_MEANING = {
    "ts": (_is_number, "a number, the time in seconds"),
    "name": (is_text, "a text"),
    "strategy": (_is_strategy, "an object that has an object for each strategy, whose ts is a number"),
}
"""What MONAI Label or this server reads of an info: by its key the check, and in words what passes."""


def _regular(value: Any, place: str, depth: int, odd: list[str]) -> Any:
    """The value without what is odd, which is noted; ``_ODD`` if it is that altogether."""
    fault = _fault(value, depth)
    if fault:
        odd.append(f"{place or 'all of it'} {fault}")
        return _ODD
    if isinstance(value, dict):
        found = {}
        for key, item in value.items():
            if not is_text(key):
                odd.append(f"{place or 'all of it'} has a key that is no valid text")
            else:
                found[key] = _regular(item, f"{place}.{_shown(key)}".lstrip("."), depth + 1, odd)
        return {key: item for key, item in found.items() if item is not _ODD}
    if isinstance(value, (list, tuple)):
        items = [_regular(item, f"{place}[{number}]", depth + 1, odd) for number, item in enumerate(value)]
        return [item for item in items if item is not _ODD]
    return value if value is None or isinstance(value, (str, int, float)) else str(value)


def _fault(value: object, depth: int) -> str:
    """What is odd about a value itself; empty if nothing is."""
    if isinstance(value, (dict, list, tuple)):
        return f"is nested deeper than {MAX_DEPTH} levels" if depth > MAX_DEPTH else ""
    if isinstance(value, str):
        return "" if is_text(value) else "is no valid text: it holds half of a surrogate pair"
    if isinstance(value, int):
        return "" if abs(value) <= MAX_INTEGER else f"is an integer beyond {MAX_INTEGER}, which clients cannot hold"
    if isinstance(value, float):
        return "" if math.isfinite(value) else "is no finite number"
    return ""


def _shown(key: str) -> str:
    """A key for a message."""
    return key if is_plain(key) and len(key) <= _MAX_SHOWN else ascii(key[:_MAX_SHOWN])
