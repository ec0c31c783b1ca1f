"""Fixes of MONAI Label 0.8.5's ``save_label``, by which a result of inference is stored as a label at once.

- Any text counts as yes, even ``"false"``. Here anything but yes or no is refused.
- The label's name is not stored, and the response always says that the tag is ``original``.
- Two requests that save at the same time write the datastore's list at the same time.
"""

import os
from dataclasses import replace
from typing import Any

from monailabel.interfaces.datastore import Datastore, DefaultLabelTag

from lib.server.upstream.guarded_routes import writing
from lib.transforms.request import Infer, SegmentRequest, Source

_PROMPTING_TAGS = (DefaultLabelTag.FINAL, DefaultLabelTag.ORIGINAL)


def infer_and_save(infer: Infer, request: SegmentRequest, datastore: Datastore) -> dict[str, Any]:
    """Run a task on an image of the datastore and store the result if that is requested.

    Args:
        infer: Runs the task, without storing anything.
        request: Its ``image`` is that image's id, otherwise nothing is stored. If labels are the prompts, are
            started from or protected, and none was sent, the image's final or else original label is used.
        datastore: Where the image is and the label is stored.

    Returns:
        The same as MONAI Label: ``file``, ``label``, ``tag``, ``params``.
    """
    image = request.image
    if not isinstance(image, str) or os.path.exists(image):
        return infer(request)
    prompts = request.source is Source.LABELS or request.options.start_from_label
    if prompts or request.options.protect:
        label = next(filter(None, (datastore.get_label_uri(image, tag) for tag in _PROMPTING_TAGS)), None)
        request = replace(
            request,
            prompting_label=request.prompting_label or (label if prompts else None),
            protecting_label=request.protecting_label or (label if request.options.protect else None),
        )
    result = infer(request)
    file = result.get("file")
    if not file or request.save_as is None:
        return result
    info: dict[str, Any] = {"model": request.model, "params": result["params"]}
    if request.object_name:
        info["label_info"] = [{"name": request.object_name, "idx": 1}]
    with writing:
        label_id = datastore.save_label(image, file, request.save_as, info)
    return {**result, "label": label_id, "tag": request.save_as}
