"""The files of a result that are written before the response is sent: what must be stored to derive all others.

Everything else that the GET routes return is made from these files by :mod:`lib.server.rest.renderings`, on demand.
"""

import os
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from lib.base.clock import current_clock
from lib.imaging.views import decode_png, encode_png
from lib.server.rest.pending import PendingResult
from lib.server.rest.refine import LOGITS
from lib.server.rest.results import StoredResult
from lib.transforms.masks import candidate_masks, merge_masks

FRAME = "frame.npy"
"""The windowed frame that was segmented, uncompressed, as compressing would take longer than the segmentation: uint8,
``(rows, columns)`` for a grey image, ``(rows, columns, 3)`` RGB for a colour one."""

MASK = "mask.png"
"""Label map of each candidate: 8 bits per pixel, 0 background, then object numbers."""


MASKS = "masks.npz"
"""For each candidate whose objects overlap: ``mask_n``, each object's whole mask, n from 0, as bits, the first pixel in
the lowest bit (:func:`numpy.packbits`). Where objects overlap, the label map shows only the one on top."""


def candidate_file(name: str, candidate: int) -> str:
    """Return the name of a candidate's file; for the best candidate, 0, the plain name."""
    return f"candidate-{candidate}-{name}" if candidate else name


def write_outputs(result: PendingResult, data: dict[str, Any], candidates: int) -> None:
    """Write the frame, the masks of each candidate and, if there were prompts, the logits to refine later.

    Args:
        result: Where to write them.
        data: A finished :class:`~lib.infers.sam_2d.Sam2D` task's dictionary: ``image``, ``frame`` (H, W, 3) uint8,
            ``objects`` and ``predictions``.
        candidates: Number of candidates, at least one.

    Raises:
        OSError: If a file cannot be written.
    """
    frame: np.ndarray = data["frame"]
    stored_frame = frame if data["image"].is_colour else frame[..., 0]
    np.save(result.folder / FRAME, np.ascontiguousarray(stored_frame), allow_pickle=False)
    for candidate in range(candidates):
        current_clock().check()
        masks = candidate_masks(data["predictions"], candidate)
        labels = merge_masks(masks, (frame.shape[0], frame.shape[1]))
        result.write(candidate_file(MASK, candidate), encode_png(labels))
        if sum(mask.area for mask in masks) > np.count_nonzero(labels):
            bits = ((f"mask_{n}", np.packbits(np.asarray(mask), bitorder="little")) for n, mask in enumerate(masks))
            _write_npz(result.folder / candidate_file(MASKS, candidate), bits, compressed=True)
    if data["objects"]:
        arrays = {}
        for index, prediction in enumerate(data["predictions"]):
            arrays[f"scores_{index}"] = prediction.scores
            arrays[f"logits_{index}"] = prediction.low_res_logits
        _write_npz(result.folder / LOGITS, arrays.items())


def stored_labels(result: StoredResult, candidate: int) -> np.ndarray:
    """Return the candidate's object numbers, ``(rows, columns)`` uint8; the smaller object's where several overlap."""
    return decode_png(result.path(candidate_file(MASK, candidate)))


def has_overlaps(result: StoredResult, candidate: int) -> bool:
    """Return whether the candidate's objects are known to overlap; older results do not store that."""
    return candidate_file(MASKS, candidate) in result.manifest.files


def stored_masks(result: StoredResult, candidate: int) -> Iterator[np.ndarray]:
    """Yield the whole mask of each of the candidate's objects, ``(rows, columns)`` bool.

    For older results, which did not store these, it is what the label map shows of each.
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


def _write_npz(path: Path, arrays: Iterable[tuple[str, np.ndarray]], *, compressed: bool = False) -> None:
    """Write named arrays as a ``.npz`` file; takes one of them at a time, as all together can be hundreds of MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, array in arrays:
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


_parsing = Lock()
"""NumPy parses a file's header as Python; CPython 3.11 can fail if two threads do so at once: python/cpython#106905."""


def read_array(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the array of a ``.npy`` file.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is damaged.
    """
    with _parsing:
        array: np.ndarray = np.load(path, allow_pickle=False)
    return array


def read_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Return all arrays of a ``.npz`` file, by name.

    Raises:
        OSError, ValueError: As :func:`read_array`.
    """
    with _parsing, np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
