"""Facts about a finished task's result, for JSON: the response's params, the ``SAM-Result`` header, the manifest."""

from dataclasses import asdict
from typing import Any

import numpy as np

from lib.imaging.labels.slice_labels import SliceLabels
from lib.sam.predictor import Predictor
from lib.sam.volume.result import VolumeResult


def made_by(predictor: Predictor) -> dict[str, str]:
    """Return the facts about the weights that a result comes from.

    Returns:
        ``checkpoint_sha256`` and, for what was learned here, ``version``: ``sam_tiny@3``.
    """
    version = {"version": predictor.title} if predictor.version else {}
    return {"checkpoint_sha256": predictor.checkpoint_sha256, **version}


def result_facts(data: dict[str, Any], model: str) -> dict[str, Any]:
    """Return the facts about the result on one slice, for JSON.

    Returns:
        ``model``, ``checkpoint_sha256``, ``version`` (if it has learned), ``slice``, ``slice_source`` (``request`` or
        ``middle``), ``frames``, ``image_notes`` (what users should know about how it was read), ``window``, ``scores``
        (predicted IoU, one per object), ``names`` (of the objects, if the model knows them), ``areas`` (pixels of each
        object's whole mask, also where another covers it), ``candidates`` (largest number of masks of an object) and
        ``candidate_scores`` (of each object, best first).
    """
    candidate_scores = [[round(float(score), 4) for score in prediction.scores] for prediction in data["predictions"]]
    return {
        "model": model,
        **data["made_by"],
        "slice": data["slice"],
        "slice_source": data["slice_source"],
        "frames": data["image"].frame_count,
        "image_notes": list(data["image"].notes),
        "window": asdict(data["window"]),
        "scores": [scores[0] for scores in candidate_scores],
        **({"names": data["names"]} if data.get("names") and data["predictions"] else {}),
        "areas": [mask.area for mask in data["masks"]],
        "candidates": max(map(len, candidate_scores), default=1),
        "candidate_scores": candidate_scores,
    }


def volume_facts(data: dict[str, Any], model: str) -> dict[str, Any]:
    """Return the facts about the result on a volume, for JSON.

    Returns:
        ``model``, ``checkpoint_sha256``, ``version`` (if it has learned), ``frames``, ``image_notes`` (what users
        should know about how it was read), ``window``, ``slices`` (first and last with a mask, or None), ``voxels``,
        ``prompted`` (slices), ``found`` (for each slice with a mask: ``k``, ``source``, ``score``, ``presence``, see
        :class:`~lib.sam.volume.result.SliceMask`, and ``area`` in pixels), ``uncertain_slices`` (that a user should
        look at), ``is_complete`` (false: there was no more time, and the same prompts go on) and ``stops`` (where
        following ended: ``anchor``, ``k``, ``reason``, ``presence``, see :class:`~lib.sam.volume.result.Stop`).
    """
    result: VolumeResult = data["volume_result"]
    labels: SliceLabels = data["pred"]
    areas = {k: int(np.count_nonzero(on_slice)) for k, on_slice in labels.slices.items()}
    found = [
        {
            "k": k,
            "source": mask.source,
            "score": round(mask.score, 4),
            "presence": round(mask.presence, 4),
            "area": areas[k],
        }
        for k, mask in result.found.items()
    ]
    return {
        "model": model,
        **data["made_by"],
        "frames": data["image"].frame_count,
        "image_notes": list(data["image"].notes),
        "window": asdict(data["window"]),
        "slices": [found[0]["k"], found[-1]["k"]] if found else None,
        "voxels": sum(areas.values()),
        "prompted": sorted({*data["volume_prompts"].marked, *data["volume_prompts"].background}),
        "found": found,
        "uncertain_slices": result.uncertain_slices,
        "is_complete": result.is_complete,
        "stops": [{**asdict(stop), "presence": round(stop.presence, 4)} for stop in result.stops],
    }
