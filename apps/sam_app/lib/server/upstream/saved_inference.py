"""Mends of MONAI Label 0.8.5's ``save_label``, by which a result of inference is kept as a label at once.

- Any text counts as yes, ``"false"`` too. Here what is neither yes nor no is refused.
- Nothing says what the label is called; the answer calls every tag ``original``.
- Two that save at the same time write the datastore's list at the same time.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.server.upstream.guarded_routes import writing
from lib.transforms.request import Infer, SegmentRequest, Source

_PROMPTING_TAGS = (DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL)


def infer_and_save(infer: Infer, request: SegmentRequest, datastore: Datastore) -> dict[str, Any]:
    """Run a task on an image of the datastore and keep the result if that is asked for.

    Args:
        infer: MONAI Label's, which keeps nothing.
        request: Its ``image`` is that image's id, else nothing is kept. For labels that prompt the image's final or
            else original label is taken.
        datastore: Where the image is and the label goes.

    Returns:
        What MONAI Label does: ``file``, ``label``, ``tag``, ``params``.
    """
    image = request.image
    if not isinstance(image, str) or os.path.exists(image):
        return infer(request)
    if request.source is Source.LABELS:
        label = next(filter(None, (datastore.get_label_uri(image, tag) for tag in _PROMPTING_TAGS)), None)
        request = replace(request, prompting_label=label)
    result = infer(request)
    file = result.get("file")
    if not file or request.save_as is None:
        return result
    info: dict[str, Any] = {"model": request.model, "params": result["params"]}
    if request.object_name:
        info["label_info"] = [{"name": request.object_name, "idx": 1}]
    with writing:
        kept = datastore.save_label(image, file, request.save_as, info)
    return {**result, "label": kept, "tag": request.save_as}
