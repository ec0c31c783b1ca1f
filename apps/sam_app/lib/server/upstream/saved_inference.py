"""Mends of MONAI Label 0.8.5's ``save_label``, by which a result of inference is kept as a label at once.

- Any text counts as yes, ``"false"`` too. Here what is neither yes nor no is refused.
- Nothing says what the label is called; the answer calls every tag ``original``.
- Two that save at the same time write the datastore's list at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.server.upstream.guarded_routes import writing
from lib.transforms.prompt_sources import LABELS
from lib.transforms.viewer_options import as_flag

_PROMPTING_TAGS = (DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL)


def infer_and_save(
    infer: Callable[[dict[str, Any]], dict[str, Any]], request: Mapping[str, Any], datastore: Datastore
) -> dict[str, Any]:
    """Run a task on an image of the datastore and keep the result if that is asked for.

    Args:
        infer: MONAI Label's, which keeps nothing.
        request: ``image``, ``model``; ``save_label`` and ``label_tag`` (``original`` without one); ``object_name``,
            what the label is called; ``prompts``, of which ``labels`` takes the image's final or else original label.
        datastore: Where the image is and the label goes.

    Returns:
        What MONAI Label answers: ``file``, ``label``, ``tag``, ``params``.
    """
    image = request["image"]
    is_stored = isinstance(image, str) and not os.path.exists(image)
    is_kept = as_flag(request.get("save_label", False), "save_label")
    asked = {**request, "save_label": False}
    if is_stored and request.get("prompts") == LABELS:
        asked["prompt_label"] = next(filter(None, (datastore.get_label_uri(image, tag) for tag in _PROMPTING_TAGS)), "")
    result = infer(asked)
    file = result.get("file")
    if not is_stored or not file or not is_kept:
        return result
    tag = request.get("label_tag") or DefaultLabelTag.ORIGINAL.value
    info: dict[str, Any] = {"model": request["model"], "params": result["params"]}
    if name := request.get("object_name"):
        info["label_info"] = [{"name": str(name), "idx": 1}]
    with writing:
        label = datastore.save_label(image, file, tag, info)
    return {**result, "label": label, "tag": tag}
