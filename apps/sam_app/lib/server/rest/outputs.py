"""The files of a result that are written before it is answered: what must last, and what the rest is made of.

Everything else that the GET routes return is made of these files by :mod:`lib.server.rest.renderings`, on demand.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lib.base.clock import current_clock
from lib.imaging.views import decode_png, encode_png
from lib.server.rest.pending import PendingResult
from lib.server.rest.refine import LOGITS
from lib.server.rest.results import StoredResult
from lib.server.rest.stored_arrays import read_arrays
from lib.transforms.masks import candidate_masks, merge_masks

FRAME = "frame.npy"
"""The windowed frame that was segmented, not compressed, as that would take longer than the segmentation: uint8,
``(rows, columns)`` of a grey image, ``(rows, columns, 3)`` RGB of a colour one."""

MASK = "mask.png"
"""Of each candidate: 8 bits a pixel, 0 background, then object numbers."""


MASKS = "masks.npz"
"""Of each candidate whose objects overlap: ``mask_n``, each object's whole mask, n from 0, as bits, the first pixel's
the lowest (:func:`numpy.packbits`). The label map shows of overlapping objects only what lies on top."""


def candidate_file(name: str, candidate: int) -> str:
    """The name of a file of that candidate; the best one, 0, has the plain name."""
    return f"candidate-{candidate}-{name}" if candidate else name


def write_outputs(result: PendingResult, data: dict[str, Any], candidates: int) -> None:
    """Write the frame, the masks of each candidate and, if there were prompts, the logits to go on from.

    Args:
        result: Where to.
        data: A finished :class:`~lib.infers.sam_2d.Sam2D` task's dictionary: ``image``, ``frame`` (H, W, 3) uint8,
            ``objects`` and ``predictions``.
        candidates: How many there are, at least one.

    Raises:
        OSError: If a file cannot be written.
    """
    frame: np.ndarray = data["frame"]
    result.write(FRAME, _npy(frame if data["image"].is_colour else frame[..., 0]))
    for candidate in range(candidates):
        current_clock().check()
        masks = candidate_masks(data["predictions"], candidate)
        labels = merge_masks(masks, (frame.shape[0], frame.shape[1]))
        result.write(candidate_file(MASK, candidate), encode_png(labels))
        if sum(mask.area for mask in masks) > np.count_nonzero(labels):
            bits = ((f"mask_{n}", np.packbits(np.asarray(mask), bitorder="little")) for n, mask in enumerate(masks))
            result.write(candidate_file(MASKS, candidate), _npz(bits, compressed=True))
    if data["objects"]:
        arrays = {}
        for index, prediction in enumerate(data["predictions"]):
            arrays[f"scores_{index}"] = prediction.scores
            arrays[f"logits_{index}"] = prediction.low_res_logits
        result.write(LOGITS, _npz(arrays.items()))


def stored_labels(result: StoredResult, candidate: int) -> np.ndarray:
    """``(rows, columns)`` uint8: the candidate's object numbers, the smaller object's where several overlap."""
    return decode_png(result.path(candidate_file(MASK, candidate)))


def has_overlaps(result: StoredResult, candidate: int) -> bool:
    """Whether the candidate's objects overlap; of a result from before that was kept nobody knows."""
    return candidate_file(MASKS, candidate) in result.manifest.files


def stored_masks(result: StoredResult, candidate: int) -> Iterator[np.ndarray]:
    """``(rows, columns)`` bool, the candidate's whole mask of each object, one after the other.

    Of a result from before these were kept, it is what the label map shows of each.
    """
    labels = stored_labels(result, candidate)
    numbers = range(len(result.facts.scores))
    if not has_overlaps(result, candidate):
        yield from (labels == number + 1 for number in numbers)
        return
    arrays = read_arrays(result.path(candidate_file(MASKS, candidate)))
    for n in numbers:
        flat = np.unpackbits(arrays[f"mask_{n}"], count=labels.size, bitorder="little")
        yield flat.view(bool).reshape(labels.shape)


def _npy(array: np.ndarray) -> bytes:
    """An array as the content of a ``.npy`` file."""
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array), allow_pickle=False)
    return buffer.getvalue()


def _npz(arrays: Iterable[tuple[str, np.ndarray]], *, compressed: bool = False) -> bytes:
    """Arrays by name as the content of a ``.npz`` file; one of them is looked at at a time."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
    return buffer.getvalue()
