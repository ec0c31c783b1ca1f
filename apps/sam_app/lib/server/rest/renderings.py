"""What is made of a stored result when it is asked for: views as PNG, DICOM objects. Made once, then kept with it.

A rendering is made of what :mod:`.outputs` stored and of the manifest alone, so that a later request, also to
another server on the same folder, gets what an earlier one would have got. Its times are that of the result. The UIDs
of DICOM objects are new when they are made; as they are kept before they are answered, they stay the same. The object
that stands for a source that is no DICOM, or does not say which instance it is, is made and kept before the objects
that reference it.

What only the writers of DICOM refuse is answered by the GET route that asks for the object, not before: the picture can
be segmented and seen all the same, and to find it out takes as long as making the object. It is 422 for a header whose
damage reading the image could do without, and 413 for a picture with a side of more than 65535 pixels, of which DICOM
knows no more. No such image was ever answered with a 4xx when it was sent, so that none has to be refused earlier.

Concurrency: requests for the same file at the same time wait for one rendering (:class:`ByteBoundedCache`). As many are
made at once as there are cores, so that memory is bounded, too; a place among them is taken last, and given back before
the store is called.
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
from lib.imaging.dicom.secondary_capture import secondary_capture
from lib.imaging.labels.segmentation import segmentation
from lib.imaging.views import contour, encode_png, grey_to_rgb, overlay
from lib.server.http.errors import UnknownResultError
from lib.server.rest.outputs import FRAME, MASK, candidate_file, has_overlaps, stored_labels, stored_masks
from lib.server.rest.pending import INPUT
from lib.server.rest.refine import LOGITS
from lib.server.rest.results import ResultStore, StoredResult
from lib.server.rest.stored_arrays import read_array

IMAGE = "image.png"
SOURCE = "source.dcm"
OVERLAY = "overlay.png"
CONTOUR = "contour.png"
SECONDARY_CAPTURE = "secondary_capture.dcm"
SEGMENTATION = "segmentation.dcm"

_SEGMENT_BYTES_A_PIXEL = 3
_BAD_HEADER = "the DICOM image's header is damaged, so that no DICOM object can be made that belongs to it"


class Renderings:
    """Makes files of results and has the store keep them.

    Args:
        store: Has the results.
    """

    def __init__(self, store: ResultStore) -> None:
        self._store = store
        self._running: ByteBoundedCache[tuple[Decimal, str], StoredResult] = ByteBoundedCache(0, lambda _: 1)
        self._places = threading.BoundedSemaphore(os.cpu_count() or 1)

    def with_file(self, result: StoredResult, name: str) -> StoredResult:
        """The result once it has that file, which is made if it is not there yet.

        Args:
            result: That is done.
            name: Of the file.

        Raises:
            UnknownResultError: As :func:`check_file`, or if the result was deleted meanwhile.
            CorruptImageError: If a damaged header cannot be carried into a DICOM object.
            ImageTooLargeError: If the picture is too large for one.
            NoSpaceError: If the disk is full; the result stays as it is.
            TimeLimitError: If the current clock's time is up.
        """
        if name in result.manifest.files:
            return result
        return self._running.get_or_compute((result.timestamp, name), lambda: self._add(result.timestamp, name))

    def _add(self, timestamp: Decimal, name: str) -> StoredResult:
        """Make the file, unless the request before this one did, and have it kept."""
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
            with self._place(), current_clock().stage("write"):
                content = make(result, candidate)
        except FileNotFoundError:
            raise UnknownResultError("the result was deleted meanwhile") from None
        reserved.release()
        return self._store.add(result, name, content)

    @contextmanager
    def _place(self) -> Iterator[None]:
        """One of those who render at once."""
        clock = current_clock()
        with clock.stage("wait"):
            if not clock.wait_until(lambda seconds: self._places.acquire(timeout=seconds)):
                clock.check()
        try:
            yield
        finally:
            self._places.release()


def _bytes_for(result: StoredResult, make: Maker) -> int:
    """What making a file takes at its peak, by the picture's size; of a Segmentation by that of all its segments."""
    size = (result.manifest.input.rows, result.manifest.input.columns)
    objects = len(result.facts.scores) if make is _segmentation else 0
    return working_bytes(size) + _SEGMENT_BYTES_A_PIXEL * objects * size[0] * size[1]


def check_file(result: StoredResult, name: str) -> None:
    """Whether the result has that file, or it can be made.

    Args:
        result: That is done.
        name: Of the file.

    Raises:
        UnknownResultError: If there is and will be none.
    """
    if name not in _makers(result):
        result.path(name)


Maker = Callable[[StoredResult, int], bytes]
"""Of a result and a candidate, the content of a file."""


def _makers(result: StoredResult) -> dict[str, tuple[Maker, int]]:
    """What can be made of a result: by the file's name who makes it, and of which candidate."""
    if FRAME not in result.manifest.files:  # an older result, which got all its files at once
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
    """The name of the file of one object's whole mask."""
    return candidate_file(f"object-{number}-{MASK}", candidate)


def _image(result: StoredResult, _: int) -> bytes:
    return encode_png(_frame(result))


def _object_mask(result: StoredResult, candidate: int, *, number: int) -> bytes:
    """An object's number on its whole mask, 0 elsewhere."""
    mask = next(islice(stored_masks(result, candidate), number - 1, None))
    return encode_png(np.where(mask, np.uint8(number), np.uint8(0)))


def _overlay(result: StoredResult, candidate: int) -> bytes:
    return encode_png(overlay(_frame(result), stored_labels(result, candidate)))


def _contour(result: StoredResult, candidate: int) -> bytes:
    return encode_png(contour(_frame(result), stored_labels(result, candidate)))


def _source(result: StoredResult, _: int) -> bytes:
    """The frame as a Secondary Capture, for the other objects to reference."""
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
    """The overlay as a Secondary Capture."""
    rgb, source = overlay(_frame(result), stored_labels(result, candidate)), _source_header(result)
    model, how = result.facts.model, "automatically" if _is_automatic(result) else "from user prompts"
    with corrupt_on_failure(_BAD_HEADER):
        dataset = secondary_capture(
            rgb,
            source=source,
            frame=_frame_of(source, result),
            series_description=f"{model} overlay{_which(candidate)}",
            derivation=f"Segmented by {model} {how}{_which(candidate)}",
            instance_time=_instance_time(result),
            software_version=result.manifest.versions["sam_app"],
        )
        return to_bytes(dataset)


def _segmentation(result: StoredResult, candidate: int) -> bytes:
    """The masks as a Segmentation, with a segment for each object; segments may overlap (PS3.3 C.8.20.2)."""
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
            segment_labels=_segment_labels(label, len(facts.scores)),
            algorithm_name=facts.model,
            algorithm_version=facts.checkpoint_sha256[:12],
            instance_time=_instance_time(result),
            series_description=f"{facts.model} segmentation{_which(candidate)}",
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
    """``(rows, columns, 3)`` uint8: the windowed frame."""
    frame = read_array(result.path(FRAME))
    return grey_to_rgb(frame) if frame.ndim == 2 else frame


def _source_header(result: StoredResult) -> Dataset:
    """The header of the instance that the DICOM objects reference."""
    header = _input_header(result) if result.manifest.input.referable else _header(result, SOURCE)
    assert header is not None  # what is referable is DICOM
    return header


def _input_header(result: StoredResult) -> Dataset | None:
    """The header of the upload, if that is DICOM."""
    return _header(result, INPUT) if result.manifest.input.format == "DICOM" else None


def _header(result: StoredResult, name: str) -> Dataset:
    with open(result.path(name), "rb") as file:
        return read_dataset(file, stop_before_pixels=True)


def _frame_of(source: Dataset | None, result: StoredResult) -> int:
    """Which frame of its instance the segmented frame is: 0 but for multi-frame instances."""
    is_multi_frame = source is not None and int(source.get("NumberOfFrames") or 1) > 1
    return result.facts.slice if is_multi_frame else 0


def _instance_time(result: StoredResult) -> datetime:
    """When the result was asked for, in this machine's time zone, as DICOM wants it."""
    return datetime.fromtimestamp(float(result.timestamp)).astimezone()


def _is_automatic(result: StoredResult) -> bool:
    """Whether it was made without prompts."""
    return LOGITS not in result.manifest.files


def _which(candidate: int) -> str:
    """For a description; nothing of the best candidate."""
    return f", candidate {candidate + 1}" if candidate else ""


def _segment_labels(label: str, count: int) -> list[str]:
    """Names of the objects; without any object one segment, which is empty."""
    return [label] if count <= 1 else [f"{label} {number}" for number in range(1, count + 1)]
