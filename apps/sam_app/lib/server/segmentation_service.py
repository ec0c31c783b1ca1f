"""One REST segmentation from upload to stored result.

Concurrency: a request is worked on in its own worker thread from start to end. A counter under a lock bounds how
many there are at once; the engine's locks are taken below it, never the other way round.
"""

from __future__ import annotations

import hashlib
import json
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from decimal import Decimal
from importlib.metadata import version
from typing import Any, BinaryIO

import numpy as np
import pydicom
from monailabel.interfaces.app import MONAILabelApp

from lib.imaging.dicom_io import to_bytes
from lib.imaging.image import MedicalImage
from lib.imaging.secondary_capture import secondary_capture
from lib.imaging.segmentation import segmentation
from lib.imaging.views import contour, encode_png, overlay
from lib.infers.sam_2d import result_facts
from lib.sam.engine import Engine
from lib.sam.registry import UnknownModelError
from lib.server.errors import BusyError
from lib.server.results import PendingResult, ResultStore
from lib.server.schemas import SAMInput
from lib.version import VERSION

DEFAULT_MODEL_ALIAS = "sam"


@dataclass(frozen=True)
class Segmented:
    """What a finished request answers: the result's name and, for the ``SAM-Result`` header, what is known of it."""

    timestamp: Decimal
    facts: dict[str, Any]


class SegmentationService:
    """Segments uploads by the app's own inference tasks and keeps the results.

    Args:
        app: Its ``infer`` runs the tasks.
        engine: Names the models.
        store: Keeps the results.
        max_queue: Requests worked on or waiting at the same time; one more is refused.
    """

    def __init__(self, app: MONAILabelApp, engine: Engine, store: ResultStore, *, max_queue: int) -> None:
        self._app = app
        self._engine = engine
        self.store = store
        self.max_queue = max_queue
        self._running = 0
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """Requests being worked on now."""
        return self._running

    def segment(self, upload: BinaryIO, sam_input: SAMInput, user: str) -> Segmented:
        """Segment an uploaded image and store the result.

        Args:
            upload: The image file.
            sam_input: What to segment.
            user: Who asked.

        Raises:
            BusyError: If as many requests as allowed are being worked on.
            UnknownModelError, ImageError, PromptError, CheckpointError, NoSpaceError: As their messages say.
        """
        with self._admitted(), self.store.new() as result:
            started = time.monotonic()
            content = upload.read()
            result.write("input", content)
            data = self._infer(result, sam_input)
            inferred = time.monotonic()
            facts = result_facts(data, data["model"])
            _write_outputs(result, data, sam_input, facts)
            manifest = {
                "timestamp": f"{result.timestamp:.6f}",
                "created": datetime.fromtimestamp(float(result.timestamp), timezone.utc).isoformat(),
                "user": user,
                "request": sam_input.model_dump(mode="json"),
                "input": _describe_input(content, data["image"]),
                "result": facts,
                "latency_ms": {
                    "infer": round((inferred - started) * 1000, 1),
                    "write": round((time.monotonic() - inferred) * 1000, 1),
                },
                "versions": _versions(),
            }
            result.write("manifest.json", json.dumps(manifest, indent=2, ensure_ascii=False).encode())
        return Segmented(result.timestamp, facts)

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        with self._lock:
            if self._running >= self.max_queue:
                raise BusyError(f"{self._running} segmentations are being worked on; try again in a few seconds")
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def _infer(self, result: PendingResult, sam_input: SAMInput) -> dict[str, Any]:
        """The task's finished data dictionary: its writer is left out, as results are written here."""
        model = sam_input.model or ""
        if model.lower() in ("", DEFAULT_MODEL_ALIAS):
            model = self._engine.default_model
        elif model not in self._engine.specs:
            raise UnknownModelError(f"there is no model {model!r}; the models are: {', '.join(self._engine.specs)}")
        request = {
            "model": model,
            "image": str(result.folder / "input"),
            "sam_input": sam_input.model_dump(),
            "window": sam_input.window.as_window() if sam_input.window else None,
            "multimask": sam_input.multimask,
            "skip_writer": True,
        }
        data: dict[str, Any] = self._app.infer(request)["params"]
        return data


def _write_outputs(result: PendingResult, data: dict[str, Any], sam_input: SAMInput, facts: dict[str, Any]) -> None:
    """The views as PNG and the DICOM objects; for an upload that is not DICOM also one of it, for them to reference."""
    image: MedicalImage = data["image"]
    frame: np.ndarray = data["frame"]
    labels: np.ndarray = data["labels"]
    result.write("image.png", encode_png(frame))
    result.write("mask.png", encode_png(labels))
    result.write("contour.png", encode_png(contour(frame, labels)))
    segmented = overlay(frame, labels)
    result.write("overlay.png", encode_png(segmented))

    now = datetime.now().astimezone()
    source = _source_dataset(image, data["slice"])
    if source is None:
        source = secondary_capture(
            frame,
            source=None,
            series_description="Source image",
            derivation=f"Converted from {image.file_format}",
            instance_time=now,
            software_version=VERSION,
            series_number=9000,
        )
        result.write("source.dcm", to_bytes(source))
    frame_of_source = data["slice"] if len(image.datasets) == 1 else 0
    how = "from user prompts" if data["objects"] else "automatically"
    capture = secondary_capture(
        segmented,
        source=source,
        frame=frame_of_source,
        series_description=f"{facts['model']} overlay",
        derivation=f"Segmented by {facts['model']} {how}",
        instance_time=now,
        software_version=VERSION,
    )
    result.write("secondary_capture.dcm", to_bytes(capture))
    count = max(1, len(data["predictions"]))
    names = (
        [sam_input.label or "Object"]
        if count == 1
        else [f"{sam_input.label or 'Object'} {n + 1}" for n in range(count)]
    )
    seg = segmentation(
        labels,
        source=source,
        frame=frame_of_source,
        segment_labels=names,
        algorithm_name=facts["model"],
        algorithm_version=facts["checkpoint_sha256"][:12],
        instance_time=now,
        series_description=f"{facts['model']} segmentation",
        is_automatic=not data["objects"],
    )
    result.write("segmentation.dcm", to_bytes(seg))


def _source_dataset(image: MedicalImage, k: int) -> pydicom.Dataset | None:
    """The header of the DICOM instance that frame k is of, if the image is DICOM."""
    if not image.datasets:
        return None
    return image.datasets[0] if len(image.datasets) == 1 else image.datasets[k]


def _describe_input(content: bytes, image: MedicalImage) -> dict[str, Any]:
    rows, columns = image.frame_size
    return {
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "format": image.file_format,
        "modality": image.modality,
        "frames": image.frame_count,
        "rows": rows,
        "columns": columns,
    }


def _versions() -> dict[str, str]:
    packages = ("monailabel", "monai", "segment-anything", "torch", "pydicom", "highdicom")
    return {"sam_app": VERSION, "python": platform.python_version(), **{name: version(name) for name in packages}}
