"""What is wrong with the keys of a REST client's prompts, said by the names that they have here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from lib.base.near_names import meant, unknown

_ON_IT = ("positive_points", "points")
_BESIDE_IT = ("negative_points",)
_BOXES = ("rectangles",)
_LINES = ("scribbles",)
_OUTLINES = ("lassos",)
_LEFT, _TOP = ("startX",), ("startY",)

OTHER_NAMES: Mapping[str, Sequence[str]] = {
    **dict.fromkeys(("points", "point", "click", "clicks", "pointcoords", "coordinates", "coords", "xy"), _ON_IT),
    **dict.fromkeys(("foreground", "foregroundpoints", "fg", "pos", "positive"), ("positive_points", "positive")),
    **dict.fromkeys(("background", "backgroundpoints", "bg", "neg", "negative"), _BESIDE_IT),
    **dict.fromkeys(("box", "boxes", "bbox", "bboxes", "boundingbox", "boundingboxes", "rect", "rects", "roi"), _BOXES),
    **dict.fromkeys(("stroke", "strokes", "line", "lines", "brush"), _LINES),
    **dict.fromkeys(("polygon", "polygons", "outline", "outlines", "contour", "contours"), _OUTLINES),
    **dict.fromkeys(("slice", "sliceindex", "k", "z"), ("frame",)),
    **dict.fromkeys(("name", "segment", "labelname"), ("label",)),
    **dict.fromkeys(("imageid", "study", "series", "seriesuid", "seriesinstanceuid"), ("image",)),
    **dict.fromkeys(("sessionid",), ("session",)),
    **dict.fromkeys(("multimaskoutput",), ("multimask",)),
    **dict.fromkeys(("x", "x0", "x1", "xmin", "minx", "left"), _LEFT),
    **dict.fromkeys(("y", "y0", "y1", "ymin", "miny", "top"), _TOP),
    **dict.fromkeys(("w", "thickness"), ("width",)),
    **dict.fromkeys(("h",), ("height",)),
    **dict.fromkeys(("level", "windowlevel", "c", "l"), ("center", "window")),
    **dict.fromkeys(("i", "col", "column"), ("x",)),
    **dict.fromkeys(("j", "row"), ("y",)),
}
"""Keys here by what other tools call the same, as :func:`~lib.base.near_names.meant` takes them."""


def with_names(model: type[BaseModel], sent: Any, error: ValidationError) -> ValidationError:
    """Return the error with messages that name the right key where a key is wrong.

    Args:
        model: What the client's value was validated as.
        sent: The client's value.
        error: What was wrong.
    """
    faults = error.errors(include_url=False)
    messages = [_message(model, sent, fault["type"], fault["loc"]) or fault["msg"] for fault in faults]
    details: list[InitErrorDetails] = [
        {"type": PydanticCustomError(fault["type"], message), "loc": fault["loc"], "input": fault["input"]}  # type: ignore[arg-type]
        for fault, message in zip(faults, messages, strict=True)
    ]
    return ValidationError.from_exception_data(error.title, details)


def _message(model: type[BaseModel], sent: Any, kind: str, loc: tuple[int | str, ...]) -> str | None:
    """Return what to say of a key that is unknown or missing; None for another fault, or if nothing is known."""
    if kind not in ("extra_forbidden", "missing"):
        return None
    for part in loc[:-1]:
        if isinstance(part, str):
            model = next(_models_in(model.model_fields[part].annotation))
        sent = sent[part]
    key, known = str(loc[-1]), list(model.model_fields)
    if kind == "extra_forbidden":
        return f"there is no {key!r} here; {unknown(key, known, OTHER_NAMES)}"
    wrong = [one for one in sent if one not in known and meant(str(one), known, OTHER_NAMES) == key]
    return f"{key!r} is missing; {wrong[0]!r} is called {key} here" if wrong else None


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models within an annotation, such as ``list[RectInput] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
