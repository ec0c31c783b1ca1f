"""The files of a finished result: views as PNG, DICOM objects, and what a later request goes on from."""

from __future__ import annotations

import io
from datetime import datetime
from typing import Any

import numpy as np
import pydicom

from lib.imaging.derived import is_referable
from lib.imaging.dicom_io import to_bytes
from lib.imaging.image import MedicalImage
from lib.imaging.secondary_capture import secondary_capture
from lib.imaging.segmentation import segmentation
from lib.imaging.views import contour, encode_png, overlay
from lib.server.refine import LOGITS
from lib.server.results import PendingResult
from lib.transforms.masks import merge_objects
from lib.version import VERSION

IMAGE = "image.png"
SOURCE = "source.dcm"


def candidate_file(name: str, candidate: int) -> str:
    """The name of a file of that candidate; the best one, 0, has the plain name."""
    return f"candidate-{candidate}-{name}" if candidate else name


def write_outputs(result: PendingResult, data: dict[str, Any], facts: dict[str, Any], label: str | None) -> None:
    """Write everything that the GET routes answer.

    For an upload that is not DICOM, or does not say which instance it is, a Secondary Capture of it is written
    as well, for the other objects to reference.

    Args:
        result: Where to.
        data: A finished :class:`~lib.infers.sam_2d.Sam2D` task's dictionary.
        facts: :func:`~lib.infers.sam_2d.result_facts` of it.
        label: What the objects are, for the DICOM segments.
    """
    frame: np.ndarray = data["frame"]
    now = datetime.now().astimezone()
    result.write(IMAGE, encode_png(frame))
    source = header = _source_dataset(data["image"], data["slice"])
    if source is None or not is_referable(source):
        source = secondary_capture(
            frame,
            source=header,
            frame=_frame_of(header, data["slice"]),
            series_description="Source image",
            derivation=f"Converted from {data['image'].file_format}",
            instance_time=now,
            software_version=VERSION,
            series_number=9000,
        )
        result.write(SOURCE, to_bytes(source))
    for candidate in range(facts["candidates"]):
        labels = merge_objects(data["predictions"], (frame.shape[0], frame.shape[1]), candidate)
        _write_candidate(result, candidate, labels, data, facts, label, source, now)
    if data["objects"]:
        arrays = {}
        for index, prediction in enumerate(data["predictions"]):
            arrays[f"scores_{index}"] = prediction.scores
            arrays[f"logits_{index}"] = prediction.low_res_logits
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        result.write(LOGITS, buffer.getvalue())


def _write_candidate(
    result: PendingResult,
    candidate: int,
    labels: np.ndarray,
    data: dict[str, Any],
    facts: dict[str, Any],
    label: str | None,
    source: pydicom.Dataset,
    now: datetime,
) -> None:
    """One candidate's views and DICOM objects."""
    frame: np.ndarray = data["frame"]
    segmented = overlay(frame, labels)
    for name, view in (("mask.png", labels), ("contour.png", contour(frame, labels)), ("overlay.png", segmented)):
        result.write(candidate_file(name, candidate), encode_png(view))

    frame_of_source = _frame_of(source, data["slice"])
    how = "from user prompts" if data["objects"] else "automatically"
    which = f", candidate {candidate + 1}" if candidate else ""
    capture = secondary_capture(
        segmented,
        source=source,
        frame=frame_of_source,
        series_description=f"{facts['model']} overlay{which}",
        derivation=f"Segmented by {facts['model']} {how}{which}",
        instance_time=now,
        software_version=VERSION,
    )
    result.write(candidate_file("secondary_capture.dcm", candidate), to_bytes(capture))
    seg = segmentation(
        labels,
        source=source,
        frame=frame_of_source,
        segment_labels=_segment_labels(label or "Object", len(data["predictions"])),
        algorithm_name=facts["model"],
        algorithm_version=facts["checkpoint_sha256"][:12],
        instance_time=now,
        series_description=f"{facts['model']} segmentation{which}",
        is_automatic=not data["objects"],
    )
    result.write(candidate_file("segmentation.dcm", candidate), to_bytes(seg))


def _segment_labels(label: str, count: int) -> list[str]:
    """Names of the objects; without any object one segment, which is empty."""
    return [label] if count <= 1 else [f"{label} {number}" for number in range(1, count + 1)]


def _frame_of(source: pydicom.Dataset | None, k: int) -> int:
    """Which frame of its instance frame k of the image is: 0 but for multi-frame instances."""
    return k if source is not None and int(source.get("NumberOfFrames") or 1) > 1 else 0


def _source_dataset(image: MedicalImage, k: int) -> pydicom.Dataset | None:
    """The header of the DICOM instance that frame k is of, if the image is DICOM."""
    if not image.datasets:
        return None
    return image.datasets[0] if len(image.datasets) == 1 else image.datasets[k]
