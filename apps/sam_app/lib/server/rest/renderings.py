"""Files made from a stored result on request: views as PNG, DICOM objects. Each is made once, then stored with it.

A rendering depends only on the manifest and on what :mod:`.outputs` stored, so that a later request, also to another
server on the same folder, gets the same. Its times are that of the result. A DICOM object gets new UIDs when it is
made; as it is stored before it is returned, they stay the same. If the source is not DICOM, or its header does not
identify its instance, a DICOM object that represents it is made and stored before the objects that reference it.

What only the DICOM writers refuse is reported by the GET route for that object, not by the upload: the image can be
segmented and displayed all the same, and the check takes as long as making the object. It is 422 for a damaged header
that did not prevent reading the image, and 413 for an image with a side of more than 65535 pixels, the most that DICOM
can describe. The upload of such an image never returned a 4xx, so it need not be refused earlier.

Concurrency: simultaneous requests for the same file wait for one rendering (:class:`ByteBoundedCache`). At most one
rendering per core runs at once, which also bounds memory; its slot is taken last, and released before the store is
called.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from functools import partial
from itertools import islice

import numpy as np
from pydicom import Dataset

from lib.base.cache import ByteBoundedCache
from lib.base.clock import current_clock
from lib.imaging.decoding.memory_budget import budget, working_bytes
from lib.imaging.decoding.parse_errors import corrupt_on_failure
from lib.imaging.dicom.data_sets import read_dataset, to_bytes
from lib.imaging.dicom.reader import read_dicom_headers
from lib.imaging.dicom.secondary_capture import secondary_capture
from lib.imaging.labels.segmentation import segmentation
from lib.imaging.labels.segments import segment_label
from lib.imaging.views import contour, encode_png, grey_to_rgb, overlay
from lib.server.http.errors import UnknownResultError
from lib.server.rest.outputs import FRAME, MASK, candidate_file, has_overlaps, read_array, stored_labels, stored_masks
from lib.server.rest.pending import INPUT
from lib.server.rest.refine import LOGITS
from lib.server.rest.results import ResultStore, StoredResult

IMAGE = "image.png"
SOURCE = "source.dcm"
OVERLAY = "overlay.png"
CONTOUR = "contour.png"
SECONDARY_CAPTURE = "secondary_capture.dcm"
SEGMENTATION = "segmentation.dcm"

_SEGMENT_BYTES_A_PIXEL = 3
_BAD_HEADER = "the DICOM image's header is damaged, so that no DICOM object can be made that belongs to it"


class Renderings:
    """Maker of the files of results, which it adds to the store.

    Args:
        store: The results.
    """

    def __init__(self, store: ResultStore) -> None:
        self._store = store
        self._running: ByteBoundedCache[tuple[Decimal, str], StoredResult] = ByteBoundedCache(0, lambda _: 1)
        self._slots = threading.BoundedSemaphore(os.cpu_count() or 1)

    def with_file(self, result: StoredResult, name: str) -> StoredResult:
        """Return the result with that file, which is made if it does not exist yet.

        Args:
            result: A result that is done.
            name: Name of the file.

        Raises:
            UnknownResultError: As :func:`check_file`, or if the result was deleted meanwhile.
            CorruptImageError: If a damaged header cannot be copied into a DICOM object.
            ImageTooLargeError: If the image is too large for one.
            NoSpaceError: If the disk is full; the result stays as it is.
            TimeLimitError: If the current clock's time is up.
        """
        if name in result.manifest.files:
            return result
        return self._running.get_or_compute((result.timestamp, name), lambda: self._add(result.timestamp, name))

    def _add(self, timestamp: Decimal, name: str) -> StoredResult:
        """Make the file and add it to the store, unless an earlier request did."""
        result = self._store.find(timestamp)
        check_file(result, name)
        if name in result.manifest.files:
            return result
        makers = _makers(result)
        make, candidate = makers[name]
        if make in (_secondary_capture, _segmentation) and SOURCE in makers:
            result = self.with_file(result, SOURCE)
        try:
            reserved = budget.reserve(_bytes_for(result, make))
            with self._slot(), current_clock().stage("write"):
                content = make(result, candidate)
        except FileNotFoundError:
            raise UnknownResultError("the result was deleted in the meantime") from None
        reserved.release()
        return self._store.add(result, name, content)

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """Hold one of the slots for simultaneous renderings."""
        clock = current_clock()
        with clock.stage("wait"):
            if not clock.wait_until(lambda seconds: self._slots.acquire(timeout=seconds)):
                clock.check()
        try:
            yield
        finally:
            self._slots.release()


def _bytes_for(result: StoredResult, make: Maker) -> int:
    """Return the peak memory in bytes for making a file of this image; a Segmentation needs more per object."""
    size = (result.manifest.input.rows, result.manifest.input.columns)
    objects = len(result.facts.scores) if make is _segmentation else 0
    return working_bytes(size) + _SEGMENT_BYTES_A_PIXEL * objects * size[0] * size[1]


def check_file(result: StoredResult, name: str) -> None:
    """Raise :class:`UnknownResultError` unless a result that is done has that file, or it can be made."""
    if name not in _makers(result):
        result.path(name)


Maker = Callable[[StoredResult, int], bytes]
"""Function that returns the content of a file for a result and a candidate."""


def _makers(result: StoredResult) -> dict[str, tuple[Maker, int]]:
    """Return what can be made from a result: by the file's name the function for it and its candidate."""
    if FRAME not in result.manifest.files:  # an older result, whose files were all written at once
        return {}
    makers: dict[str, tuple[Maker, int]] = {IMAGE: (_image, 0)}
    if not result.manifest.input.referable:
        makers[SOURCE] = (_source, 0)
    for candidate in range(result.facts.candidates):
        for name, make in _OF_A_CANDIDATE.items():
            makers[candidate_file(name, candidate)] = (make, candidate)
        for number in range(1, len(result.facts.scores) + 1):
            makers[object_file(number, candidate)] = (partial(_object_mask, number=number), candidate)
    return makers


def object_file(number: int, candidate: int) -> str:
    """Return the name of the file with one object's whole mask."""
    return candidate_file(f"object-{number}-{MASK}", candidate)


def _image(result: StoredResult, _: int) -> bytes:
    return encode_png(_frame(result))


def _object_mask(result: StoredResult, candidate: int, *, number: int) -> bytes:
    """Return a PNG with an object's number on its whole mask, 0 elsewhere."""
    mask = next(islice(stored_masks(result, candidate), number - 1, None))
    return encode_png(np.where(mask, np.uint8(number), np.uint8(0)))


def _overlay(result: StoredResult, candidate: int) -> bytes:
    return encode_png(overlay(_frame(result), stored_labels(result, candidate)))


def _contour(result: StoredResult, candidate: int) -> bytes:
    return encode_png(contour(_frame(result), stored_labels(result, candidate)))


def _source(result: StoredResult, _: int) -> bytes:
    """Return the frame as a Secondary Capture, for the other objects to reference."""
    rgb, header = _frame(result), _input_header(result)
    with corrupt_on_failure(_BAD_HEADER):
        dataset = secondary_capture(
            rgb,
            source=header,
            frame=_frame_of(header, result),
            series_description="Source image",
            derivation=f"Converted from {result.manifest.input.format}",
            instance_time=_instance_time(result),
            software_version=result.manifest.versions["sam_app"],
            series_number=9000,
        )
        return to_bytes(dataset)


def _secondary_capture(result: StoredResult, candidate: int) -> bytes:
    """Return the overlay as a Secondary Capture."""
    rgb, source = overlay(_frame(result), stored_labels(result, candidate)), _source_header(result)
    model, how = result.facts.model, "automatically" if _is_automatic(result) else "from user prompts"
    with corrupt_on_failure(_BAD_HEADER):
        dataset = secondary_capture(
            rgb,
            source=source,
            frame=_frame_of(source, result),
            series_description=f"{model} overlay{_candidate_suffix(candidate)}",
            derivation=f"Segmented by {model} {how}{_candidate_suffix(candidate)}",
            instance_time=_instance_time(result),
            software_version=result.manifest.versions["sam_app"],
        )
        return to_bytes(dataset)


def _segmentation(result: StoredResult, candidate: int) -> bytes:
    """Return the masks as a Segmentation, with a segment for each object; segments may overlap (PS3.3 C.8.20.2)."""
    source, facts = _source_header(result), result.facts
    overlaps = has_overlaps(result, candidate)
    objects = stored_labels(result, candidate)
    if overlaps:
        objects = np.zeros((*objects.shape, len(facts.scores)), dtype=bool)
        for index, mask in enumerate(stored_masks(result, candidate)):
            objects[..., index] = mask
    label = result.manifest.effective.get("label") or "Object"
    with corrupt_on_failure(_BAD_HEADER):
        dataset = segmentation(
            objects,
            source=source,
            frame=_frame_of(source, result),
            segment_labels=[segment_label(name) for name in facts.names] or _segment_labels(label, len(facts.scores)),
            algorithm_name=facts.versions if facts.names and facts.versions else facts.model,
            algorithm_version=facts.version or facts.checkpoint_sha256[:12],
            instance_time=_instance_time(result),
            series_description=f"{facts.model} segmentation{_candidate_suffix(candidate)}",
            is_automatic=_is_automatic(result),
        )
        return to_bytes(dataset)


_OF_A_CANDIDATE: dict[str, Maker] = {
    OVERLAY: _overlay,
    CONTOUR: _contour,
    SECONDARY_CAPTURE: _secondary_capture,
    SEGMENTATION: _segmentation,
}


def _frame(result: StoredResult) -> np.ndarray:
    """Return the windowed frame, ``(rows, columns, 3)`` uint8."""
    frame = read_array(result.path(FRAME))
    return grey_to_rgb(frame) if frame.ndim == 2 else frame


def _source_header(result: StoredResult) -> Dataset:
    """Return the header of the instance that the DICOM objects reference."""
    header = _input_header(result) if result.manifest.input.referable else _header(result, SOURCE)
    assert header is not None  # a referable image is DICOM
    return header


def _input_header(result: StoredResult) -> Dataset | None:
    """Return the header of the image, if it is DICOM; of a series, that of the segmented frame."""
    if result.manifest.input.format != "DICOM":
        return None
    image = result.path(INPUT)
    if not image.is_dir():
        return _header(result, INPUT)
    headers = read_dicom_headers(image)
    return headers[result.facts.slice if len(headers) > 1 else 0]


def _header(result: StoredResult, name: str) -> Dataset:
    with open(result.path(name), "rb") as file:
        return read_dataset(file, stop_before_pixels=True)


def _frame_of(source: Dataset | None, result: StoredResult) -> int:
    """Return the index of the segmented frame in its instance: 0 except for multi-frame instances."""
    is_multi_frame = source is not None and int(source.get("NumberOfFrames") or 1) > 1
    return result.facts.slice if is_multi_frame else 0


def _instance_time(result: StoredResult) -> datetime:
    """Return when the result was requested, in this machine's time zone, as DICOM requires."""
    return datetime.fromtimestamp(float(result.timestamp)).astimezone()


def _is_automatic(result: StoredResult) -> bool:
    """Return whether the result was made without prompts."""
    return LOGITS not in result.manifest.files


def _candidate_suffix(candidate: int) -> str:
    """Return the end of a description that names the candidate; empty for the best one."""
    return f", candidate {candidate + 1}" if candidate else ""


def _segment_labels(label: str, count: int) -> list[str]:
    """Return a name for each object; if there are none, one for the single, empty segment."""
    return [label] if count <= 1 else [f"{label} {number}" for number in range(1, count + 1)]
