"""The files of a result that are written before it is answered: what must last, and what the rest is made of.

Everything else that the GET routes answer is made of these files by :mod:`lib.server.renderings`, when it is asked for.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from lib.imaging.views import encode_png
from lib.server.refine import LOGITS
from lib.server.results import PendingResult
from lib.transforms.masks import merge_objects

FRAME = "frame.npy"
"""The windowed frame that was segmented, not compressed, as that would take longer than the segmentation: uint8,
``(rows, columns)`` of a grey image, ``(rows, columns, 3)`` RGB of a colour one."""

MASK = "mask.png"
"""Of each candidate: 8 bits a pixel, 0 background, then object numbers."""


def candidate_file(name: str, candidate: int) -> str:
    """The name of a file of that candidate; the best one, 0, has the plain name."""
    return f"candidate-{candidate}-{name}" if candidate else name


def write_outputs(result: PendingResult, data: dict[str, Any], candidates: int) -> None:
    """Write the frame, the mask of each candidate and, if there were prompts, the logits to go on from.

    Args:
        result: Where to.
        data: A finished :class:`~lib.infers.sam_2d.Sam2D` task's dictionary: ``image``, ``frame`` (H, W, 3) uint8,
            ``labels`` (H, W) uint8, ``objects`` and ``predictions``.
        candidates: How many there are, at least one.

    Raises:
        OSError: If a file cannot be written.
    """
    frame: np.ndarray = data["frame"]
    result.write(FRAME, _npy(frame if data["image"].is_colour else frame[..., 0]))
    result.write(MASK, encode_png(data["labels"]))
    for candidate in range(1, candidates):
        labels = merge_objects(data["predictions"], (frame.shape[0], frame.shape[1]), candidate)
        result.write(candidate_file(MASK, candidate), encode_png(labels))
    if data["objects"]:
        arrays = {}
        for index, prediction in enumerate(data["predictions"]):
            arrays[f"scores_{index}"] = prediction.scores
            arrays[f"logits_{index}"] = prediction.low_res_logits
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        result.write(LOGITS, buffer.getvalue())


def _npy(array: np.ndarray) -> bytes:
    """An array as the content of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()
