"""Names of a mask's labels, from the ``label_info`` that MONAI Label's clients send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lib.imaging.labels.segments import segment_label


def segment_names(label_info: Any, values: Sequence[int]) -> list[str]:
    """Return the names of a mask's labels.

    An item of ``label_info`` is ``{"name": …, "idx": …}``. Slicer sends ``idx``, the label's number in the mask; if no
    item has it, the items are the labels in ascending order, as in MONAI Label.

    Args:
        label_info: As the client sent it; invalid items are ignored.
        values: The labels' numbers, ascending. Empty for an empty mask.

    Returns:
        A name for each of ``values``, ``Segment <number>`` for one without a name; for an empty mask only the name of
        the first named item, the label that was requested.
    """
    items = [item for item in label_info if isinstance(item, Mapping)] if isinstance(label_info, list) else []
    names = [segment_label(str(item.get("name") or "")) for item in items]
    if not values:
        return [next(filter(None, names), "Segment 1")]
    stated = {item["idx"]: name for item, name in zip(items, names, strict=True) if isinstance(item.get("idx"), int)}
    found = stated or dict(zip(values, names, strict=False))
    return [found.get(value) or f"Segment {value}" for value in values]


def algorithm_name(label_info: Any, default: str) -> str:
    """Return the name of the model that made the mask: the first item's ``model_name``, else ``default``."""
    first = label_info[0] if isinstance(label_info, list) and label_info else None
    model = first.get("model_name") if isinstance(first, Mapping) else None
    return segment_label(str(model or "")) or default
