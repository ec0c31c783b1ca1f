"""Inference on many images, one after the other, in a separate thread.

One batch runs at a time. Users' requests are processed between its images: each image counts as a segmentation
in progress, but is never refused.
"""

import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from lib.base.clock import Clock, use_clock
from lib.base.scratch import scratch_files
from lib.base.threads import start_watched
from lib.server.admission import Admission, BusyError
from lib.server.http.errors import failure_of
from lib.server.recent_runs import RecentRuns, now
from lib.transforms.request import Infer, SegmentRequest

logger = logging.getLogger(__name__)

Status = Literal["SUBMITTED", "RUNNING", "DONE", "ERROR", "STOPPED"]


class BatchRunningError(BusyError):
    """A batch is running already, and only one may run at a time."""


@dataclass
class Batch:
    """State of a batch; ``status`` uses MONAI Label's words.

    Args:
        request: The request for every image.
        images: The images' ids, in the order in which they are processed.
        shown: The request as returned to clients.
    """

    request: SegmentRequest
    images: Sequence[str]
    shown: Mapping[str, Any]
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    status: Status = "SUBMITTED"
    start_ts: str = field(default_factory=now)
    end_ts: str | None = None
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    is_to_stop: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON with MONAI Label's keys; ``details`` describes the progress."""
        failed = sum("error" in result for result in self.results.values())
        return {
            "id": self.id,
            "status": self.status,
            "request": dict(self.shown),
            "start_ts": self.start_ts,
            **({"end_ts": self.end_ts} if self.end_ts else {}),
            "details": [f"{len(self.results)} of {len(self.images)} images, {failed} of them failed"],
            "results": dict(self.results),
        }


class BatchInference:
    """Runner of batches.

    Args:
        infer: Runs the app's tasks and stores the label.
        admission: Counts each image.
        max_seconds: How long one image may take.
    """

    def __init__(self, infer: Infer, admission: Admission, *, max_seconds: float) -> None:
        self._infer = infer
        self._admission = admission
        self._max_seconds = max_seconds
        self.runs: RecentRuns[Batch] = RecentRuns("batch")

    def start(
        self, request: SegmentRequest, images: Sequence[str], shown: Mapping[str, Any], *, wait: bool = False
    ) -> Batch:
        """Start a batch and return it.

        Args:
            request: The request for every image; results are stored with its tag ``save_as``.
            images: Ids of the datastore.
            shown: As in :class:`Batch`.
            wait: Whether to return only when it has ended.

        Raises:
            BatchRunningError: If one is running already.
        """
        batch = Batch(request, sorted(images), shown)
        if not self.runs.add(batch):
            raise BatchRunningError("a batch is running already; wait until it is done, or stop it")
        worker = start_watched("batch", lambda: self._run(batch))
        if wait:
            worker.join()
        return batch

    def stop(self) -> Batch | None:
        """Stop the running batch after its current image; returns it, or None if none is running."""
        batch = self.runs.running()
        if batch is not None:
            batch.is_to_stop = True
        return batch

    def _run(self, batch: Batch) -> None:
        batch.status = "RUNNING"
        for image in batch.images:
            if batch.is_to_stop:
                break
            batch.results = {**batch.results, image: self._one(batch, image)}  # replaced, as other threads read it
        failed = bool(batch.images) and all("error" in result for result in batch.results.values())
        whole = len(batch.results) == len(batch.images)
        batch.status = ("ERROR" if failed else "DONE") if whole else "STOPPED"
        batch.end_ts = now()

    def _one(self, batch: Batch, image: str) -> dict[str, Any]:
        self._admission.enter(unconditionally=True)
        try:
            with use_clock(Clock(self._max_seconds)), scratch_files():
                result = self._infer(replace(batch.request, image=image))
            return {key: result[key] for key in ("label", "tag", "params")}
        except BaseException as error:  # one image's failure must not end the others; a panic in Rust is no Exception
            failure = failure_of(error)
            if failure.status >= 500:
                logger.error("An image of a batch failed", exc_info=error)
            return {"error": failure.detail}
        finally:
            self._admission.leave()
