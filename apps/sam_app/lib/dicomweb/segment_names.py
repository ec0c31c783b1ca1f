"""What a client's ``label_info`` calls the labels of a mask: the words that MONAI Label's clients use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib.imaging.labels.segments import segment_label


def segment_names(label_info: Any, values: Sequence[int]) -> list[str]:
    """The names of a mask's labels.

    An item of ``label_info`` is ``{"name": …, "idx": …}``. Slicer states ``idx``, the label's number in the mask; where
    none of them does, they stand for the labels in order, as in MONAI Label.

    Args:
        label_info: As the client sent it; what cannot be meant is left out.
        values: The numbers, ascending. Empty for an empty mask.

    Returns:
        A name for each of ``values``, ``Segment <number>`` for one that has none; for an empty mask that of the first
        item, the one label that was looked for.
    """
    items = [item for item in label_info if isinstance(item, Mapping)] if isinstance(label_info, list) else []
    names = [segment_label(str(item.get("name") or "")) for item in items]
    if not values:
        return [next(filter(None, names), "Segment 1")]
    stated = {item["idx"]: name for item, name in zip(items, names, strict=True) if isinstance(item.get("idx"), int)}
    found = stated or dict(zip(values, names, strict=False))
    return [found.get(value) or f"Segment {value}" for value in values]


def algorithm_name(label_info: Any, default: str) -> str:
    """The model that made the mask, by the first item's ``model_name``; ``default`` if it is not said."""
    first = label_info[0] if isinstance(label_info, list) and label_info else None
    said = first.get("model_name") if isinstance(first, Mapping) else None
    return segment_label(str(said or "")) or default
