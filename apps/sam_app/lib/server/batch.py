"""Inference on many images, as many at once as can be encoded at once, each in a thread of its own.

One batch runs at a time. It gives way to everything else: the threads have a low priority, and the device serves it
last, see :mod:`lib.sam.device_queue`. Each image counts as a segmentation in progress, but is never refused; half of
the places are for users.

The images' threads end and are started as the number changes that can be encoded at once; the batch's own, which takes
images like the others, goes on to the end. No more is in memory than the images that are worked on.
"""

import logging
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from lib.base.clock import Clock, use_clock
from lib.base.scratch import scratch_files
from lib.base.threads import start_watched
from lib.sam.device_queue import lower_priority
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
    """State of a batch; ``status`` uses MONAI Label's words. Thread-safe.

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
    failed: int = 0
    is_to_stop: bool = False

    def __post_init__(self) -> None:
        self._left: Iterator[str] = iter(self.images)
        self._lock = threading.Lock()

    def next_image(self) -> str | None:
        """Return the next image to work on; None if there is none or the batch is to stop."""
        with self._lock:
            return None if self.is_to_stop else next(self._left, None)

    def keep(self, image: str, result: dict[str, Any]) -> None:
        """Add an image's result."""
        with self._lock:
            self.results[image] = result
            self.failed += "error" in result

    def end(self) -> None:
        """Set the status and the time of the end."""
        if len(self.results) < len(self.images):
            self.status = "STOPPED"
        else:
            self.status = "ERROR" if self.images and self.failed == len(self.images) else "DONE"
        self.end_ts = now()

    def as_dict(self) -> dict[str, Any]:
        """Return a dictionary for JSON with MONAI Label's keys; ``details`` describes the progress."""
        with self._lock:
            results, failed = dict(self.results), self.failed
        return {
            "id": self.id,
            "status": self.status,
            "request": dict(self.shown),
            "start_ts": self.start_ts,
            **({"end_ts": self.end_ts} if self.end_ts else {}),
            "details": [f"{len(results)} of {len(self.images)} images, {failed} of them failed"],
            "results": results,
        }


class BatchInference:
    """Runner of batches.

    Args:
        infer: Runs the app's tasks and stores the label.
        admission: Counts each image.
        max_seconds: How long one image may take, without what it waits for other work.
        at_once: Returns how many images can be encoded at the same time, which can change.
    """

    def __init__(self, infer: Infer, admission: Admission, *, max_seconds: float, at_once: Callable[[], int]) -> None:
        self._infer = infer
        self._admission = admission
        self._max_seconds = max_seconds
        self._at_once = at_once
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
        """Stop the running batch after its current images; returns it, or None if none is running."""
        batch = self.runs.running()
        if batch is not None:
            batch.is_to_stop = True
        return batch

    def _run(self, batch: Batch) -> None:
        batch.status = "RUNNING"
        lower_priority()
        others: dict[int, threading.Thread] = {}
        while (image := batch.next_image()) is not None:
            for number in range(1, self._threads()):
                if number not in others or not others[number].is_alive():
                    others[number] = start_watched("batch", partial(self._help, batch, number))
            batch.keep(image, self._one(batch, image))
        for other in others.values():
            other.join()
        batch.end()

    def _help(self, batch: Batch, number: int) -> None:
        """Work on images, as long as so many threads may."""
        lower_priority()
        while number < self._threads() and (image := batch.next_image()) is not None:
            batch.keep(image, self._one(batch, image))

    def _threads(self) -> int:
        return max(1, min(self._at_once(), self._admission.limit // 2))

    def _one(self, batch: Batch, image: str) -> dict[str, Any]:
        self._admission.enter(unconditionally=True)
        try:
            with use_clock(Clock(self._max_seconds, gives_way=True)), scratch_files():
                result = self._infer(replace(batch.request, image=image))
            return {key: result[key] for key in ("label", "tag", "params")}
        except BaseException as error:  # one image's failure must not end the others; a panic in Rust is no Exception
            failure = failure_of(error)
            if failure.status >= 500:
                logger.error("An image of a batch failed", exc_info=error)
            return {"error": failure.detail}
        finally:
            self._admission.leave()
