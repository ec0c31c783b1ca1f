"""REST segmentations from upload to stored result, at once or from the queue.

A request is first written into a folder of the result store: its image, and as JSON what to do with it. A synchronous
one is then processed in its own worker thread; an asynchronous one is accepted by giving the folder its queued name,
and processed by the queue's thread, if need be after a restart of the server. Either way processing starts from the
folder.

Concurrency: :class:`~lib.server.admission.Admission` bounds how many requests are processed or wait. Locks are taken
from here down to the engine's, never in the other order. The queue's own lock is inside ``queue.Queue``.
"""

import logging
import platform
import queue
from collections.abc import Callable
from contextlib import suppress
from dataclasses import KW_ONLY, asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lib.base.clock import Clock, current_clock, use_clock
from lib.base.request_record import RequestRecord, current_record, note, use_record
from lib.base.threads import failed, start_watched
from lib.imaging.dicom.derived import is_referable
from lib.imaging.image import ImageChangedError, MedicalImage
from lib.imaging.image_cache import content_key, version_of
from lib.imaging.views import encode_png
from lib.infers.facts import result_facts
from lib.sam.engine import Engine
from lib.sam.models.registry import UnknownModelError
from lib.server.admission import Admission
from lib.server.auth.users import User
from lib.server.http.errors import (
    NoSpaceError,
    RefineError,
    TooManyAttemptsError,
    UnknownImageError,
    UnknownResultError,
    failure_of,
)
from lib.server.rest.manifest import (
    EarlierMasks,
    InputFacts,
    InputFile,
    Manifest,
    Origin,
    ReceivedRequest,
    ResultFacts,
)
from lib.server.rest.outputs import read_arrays, stored_masks, write_outputs
from lib.server.rest.pending import INPUT, REQUEST, PendingResult
from lib.server.rest.refine import EARLIER_LOGITS, LOGITS, PROTECT, START, check_refinable, merge_request
from lib.server.rest.renderings import Renderings
from lib.server.rest.results import ResultStore, StoredResult
from lib.server.rest.schemas import SAMInput
from lib.server.rest.timestamps import print_timestamp
from lib.transforms.request import AUTO, EarlierResult, Infer, SegmentOptions, SegmentRequest, Source
from lib.transforms.sam_input import SAMPrompts
from lib.version import VERSION

logger = logging.getLogger(__name__)

DEFAULT_MODEL_ALIAS = "sam"
_MAX_ATTEMPTS = 2

JobObserver = Callable[[RequestRecord, Clock, int], None]
"""Called when a queued segmentation has ended, with its record, its times and its HTTP status."""


@dataclass(frozen=True)
class SentRequest:
    """What a client sent.

    Args:
        upload: The image file; None to use ``stored``, or that of ``earlier``.
        asked: What to segment.
        user: Who requested it, and owns the result.
        earlier: The result that ``asked.refine`` or ``asked.start`` names.
        mask: The file of the mask to start from.
        protect: The file of the label whose objects are left as they are.
        stored: Returns the path of an image that the server has, a file or the folder of a series; may ask an archive.
    """

    upload: BinaryIO | None
    asked: SAMInput
    user: User
    earlier: StoredResult | None = None
    mask: BinaryIO | None = None
    protect: BinaryIO | None = None
    stored: Callable[[], Path] | None = None


@dataclass(frozen=True)
class Segmented:
    """Result of a synchronous request: its name and, for the ``SAM-Result`` header, the facts about it."""

    timestamp: Decimal
    facts: dict[str, Any]


@dataclass(eq=False)
class SegmentationService:
    """Service that segments uploads with the app's inference tasks and stores the results.

    Args:
        infer: Runs the app's inference tasks.
        engine: Names the models.
        store: Stores the results.
        admission: Bounds the requests that are processed or wait.
        max_seconds: How long a queued segmentation may take, from its start.
        observe_job: Called when a queued segmentation has ended.
    """

    infer: Infer
    engine: Engine
    store: ResultStore
    _: KW_ONLY
    admission: Admission
    max_seconds: float
    observe_job: JobObserver

    def __post_init__(self) -> None:
        self._jobs: queue.Queue[tuple[Decimal, str]] = queue.Queue()
        self._without_space: set[Decimal] = set()
        self._last_job_seconds = 1.0
        self.renderings = Renderings(self.store)

    def start(self) -> None:
        """Start the queue, first with the requests that an earlier server accepted and did not finish."""
        for timestamp in self.store.queued():
            self.admission.enter(unconditionally=True)
            self._jobs.put((timestamp, ""))
        start_watched("segmentation-queue", self._process_jobs)

    def segment(self, sent: SentRequest) -> Segmented:
        """Segment an image now and store the result.

        Raises:
            BusyError: If as many requests as allowed are being processed.
            RefineError, NotFinishedError: If ``earlier`` cannot be refined.
            UnknownImageError, ImageChangedError: If the image that the server should have is gone, or is another.
            UnknownModelError, ImageError, PromptError, CheckpointError, TimeLimitError, NoSpaceError: As their messages
                say.
        """
        with self.admission.inside(sent.user.share), self.store.new() as pending:
            received = self._receive(pending, sent)
            facts = self._segment_and_finish(pending, received)
        return Segmented(pending.timestamp, facts)

    def accept(self, sent: SentRequest) -> Decimal:
        """Accept a request, to be processed later, by the next server if this one stops.

        Returns:
            The timestamp under which the store has its state and, later, its result or failure.

        Raises:
            BusyError, RefineError, NotFinishedError, UnknownImageError, ImageChangedError, UnknownModelError,
            NoSpaceError: As :meth:`segment`.
        """
        self.admission.enter(sent.user.share)
        try:
            with self.store.new() as pending:
                received = self._receive(pending, sent)
                record = current_record() or RequestRecord()
                origin = Origin(request_id=record.request_id, client=record.client)
                pending.queue(received.model_copy(update={"origin": origin}).as_dict())
        except BaseException:
            self.admission.leave(sent.user.share)
            raise
        self._jobs.put((pending.timestamp, sent.user.share))
        return pending.timestamp

    def retry_after(self, timestamp: Decimal) -> int:
        """Return the seconds, 1 to 60, after which a client should request a queued result again."""
        ahead = sum(other < timestamp for other in self.store.queued())
        return max(1, min(60, round(self._last_job_seconds * (ahead + 1))))

    def lacks_space(self, timestamp: Decimal) -> bool:
        """Return whether a queued request failed because the disk is full; the next server tries it again."""
        return timestamp in self._without_space

    def _receive(self, pending: PendingResult, sent: SentRequest) -> ReceivedRequest:
        """Write the image and the labels into the pending result's folder; returns what to do with it."""
        asked, earlier = sent.asked, sent.earlier
        note(timestamp=f"{pending.timestamp:.6f}")
        effective, masks, starts = asked.prompts(), None, False
        if sent.mask is not None and earlier is not None:
            raise RefineError("send a mask, or name a result to start from or to refine, not both")
        if sent.mask is not None:
            pending.copy(START, sent.mask)
        if sent.protect is not None:
            pending.copy(PROTECT, sent.protect)
        if earlier is not None:
            check_refinable(earlier)
            before = SAMPrompts.model_validate(earlier.manifest.effective)
            same_frame = asked.frame in (None, earlier.facts.slice)
            effective = merge_request(asked, before, same_frame=same_frame and asked.start is None)
            has_start = same_frame and START in earlier.manifest.files
            starts = asked.start is not None or (has_start and effective.has_prompts and not before.has_prompts)
            if starts:  # also where the first prompts correct what the model made of a mask without any
                _start_from(pending, earlier, asked)
            elif has_start:
                pending.take_over(earlier.path(START), START)
            if sent.protect is None and same_frame and PROTECT in earlier.manifest.files:
                pending.take_over(earlier.path(PROTECT), PROTECT)
        effective = effective.model_copy(update={"model": self._model_name(effective.model)})
        if sent.stored is not None:
            file = self._take_stored(pending, sent.stored, asked.version)
        else:
            file = _receive_file(pending, sent.upload, earlier)
        if earlier is not None and _has_masks_for(effective, earlier, before, same_frame=same_frame and not starts):
            masks = _receive_masks(pending, earlier, before, asked.candidate or 0)
        elif asked.candidate and not starts:
            raise RefineError("candidate is for refining a result that has candidates, on the same frame")
        note(image_sha256=file.sha256, model=effective.model, prompts=_counts(effective, pending))
        return ReceivedRequest(
            user=sent.user.username,
            created=datetime.fromtimestamp(float(pending.timestamp), UTC).isoformat(),
            request=asked.model_dump(mode="json", exclude_none=True),
            input=file,
            effective=effective,
            earlier=masks,
        )

    def _take_stored(self, pending: PendingResult, find: Callable[[], Path], version: str | None) -> InputFile:
        """Link an image that the server has from another result, else copy it, so that the result keeps it as it is.

        Raises:
            UnknownImageError: If it is gone.
            ImageChangedError: If it has another version, or was written to meanwhile.
        """
        try:
            image = find()
            key = content_key(image)
            if version is not None and version != version_of(key):
                raise ImageChangedError("the image has changed since it was opened: open it again, then repeat this")
            if known := self.store.with_image(key):
                with suppress(UnknownResultError):
                    pending.take_over(known.path(INPUT), INPUT)
                    return known.manifest.input.file
            copied = pending.copy_image(image)
        except FileNotFoundError:
            raise UnknownImageError("the image is no longer there") from None
        if copied.key != key:
            raise ImageChangedError("the image was changed while it was read; try again once it is complete")
        return copied

    def _model_name(self, asked: str | None) -> str:
        """Return the engine's name of the requested model.

        Raises:
            UnknownModelError: If there is no such model.
        """
        if (asked or "").lower() in ("", DEFAULT_MODEL_ALIAS):
            return self.engine.default_model
        learned = self.engine.automatic() if asked not in self.engine.specs else {}
        if asked not in self.engine.specs and asked not in learned:
            known = ", ".join([*self.engine.specs, *learned])
            raise UnknownModelError(f"there is no model {asked!r}; the models are: {known}")
        return str(asked)

    def _segment_and_finish(self, pending: PendingResult, received: ReceivedRequest) -> dict[str, Any]:
        """Segment what was received and finish the result; returns its facts."""
        data = self._segment(pending, received)
        facts = result_facts(data, str(received.effective.model))
        note(checkpoint_sha256=facts["checkpoint_sha256"])
        clock = current_clock()
        with clock.stage("write"):
            write_outputs(pending, data, facts["candidates"])
        (pending.folder / EARLIER_LOGITS).unlink(missing_ok=True)
        known = received.model_dump(mode="json", exclude_none=True, include={"user", "created", "request", "effective"})
        pending.finish(
            Manifest(
                **known,
                timestamp=f"{pending.timestamp:.6f}",
                input=_describe(received.input, data["image"], data["slice"]),
                result=ResultFacts(**facts),
                latency_ms={name: round(seconds * 1000, 1) for name, seconds in clock.stages.items()},
                versions=_versions(),
            )
        )
        return facts

    def _segment(self, pending: PendingResult, received: ReceivedRequest) -> dict[str, Any]:
        """Run the task and return its data dictionary; its own writer is skipped, as results are written here."""
        effective = received.effective
        window = effective.window.as_window() if effective.window else AUTO
        start, protect = (_existing(pending.folder / name) for name in (START, PROTECT))
        options = SegmentOptions(
            window=window,
            multimask=effective.multimask,
            start_from_label=start is not None,
            protect=protect is not None,
        )
        request = SegmentRequest(
            source=Source.REST,
            model=str(effective.model),
            image=str(pending.folder / INPUT),
            prompts=effective,
            options=options,
            prompting_label=start,
            protecting_label=protect,
            label_format=None,
            automatic=effective.automatic is not False,
            image_key=received.input.key,
            earlier=self._earlier_result(pending, received),
        )
        return self.infer(request)["params"]

    def _earlier_result(self, pending: PendingResult, received: ReceivedRequest) -> EarlierResult | None:
        """Return the masks to refine; None if the checkpoint has changed since."""
        earlier = received.earlier
        if earlier is None:
            return None
        if self.engine.predictor(str(received.effective.model)).checkpoint_sha256 != earlier.checkpoint_sha256:
            return None
        arrays = read_arrays(pending.folder / EARLIER_LOGITS)
        scores = [arrays[f"scores_{index}"] for index in range(len(arrays) // 2)]
        orders = [_candidate_first(len(values), earlier.candidate) for values in scores]
        return EarlierResult(
            prompts=earlier.effective,
            scores=[values[order] for values, order in zip(scores, orders, strict=True)],
            low_res_logits=[arrays[f"logits_{index}"][order] for index, order in enumerate(orders)],
        )

    def _process_jobs(self) -> None:
        """Process the queue, one request after the other, in its thread."""
        while True:
            timestamp, share = self._jobs.get()
            try:
                self._process_job(timestamp)
            except Exception as error:  # the request stays queued for the next server
                logger.error("The accepted request %s could not be worked on", print_timestamp(timestamp))
                failed("segmentation-queue", error)
            finally:
                self.admission.leave(share)

    def _process_job(self, timestamp: Decimal) -> None:
        """Process one accepted request and store its result or failure."""
        record, clock, status = RequestRecord(timestamp=f"{timestamp:.6f}"), Clock(self.max_seconds), 200
        with use_record(record), use_clock(clock):
            try:
                with self.store.resume(timestamp) as pending:
                    status = self._attempt(pending)
            except NoSpaceError:
                self._without_space.add(timestamp)
                status = 507
        self._last_job_seconds = clock.elapsed
        self.observe_job(record, clock, status)

    def _attempt(self, pending: PendingResult) -> int:
        """Process a queued request and return its HTTP status; any failure but a full disk is stored as the result."""
        received = ReceivedRequest.model_validate_json((pending.folder / REQUEST).read_bytes())
        origin = received.origin or Origin(request_id=RequestRecord().request_id)
        note(
            **dict(origin),
            user=received.user,
            image_sha256=received.input.sha256,
            model=received.effective.model,
            prompts=_counts(received.effective, pending),
        )
        try:
            if pending.attempt > _MAX_ATTEMPTS:
                raise TooManyAttemptsError(f"the server stopped {_MAX_ATTEMPTS} times while it worked on this request")
            self._segment_and_finish(pending, received)
        except Exception as error:
            failure = failure_of(error)
            note(reason=type(error).__name__)
            if failure.status == 507:
                raise
            if failure.status >= 500:
                logger.error("The request %s failed", print_timestamp(pending.timestamp), exc_info=error)
            timestamp = f"{pending.timestamp:.6f}"
            pending.finish(Manifest(**received.as_dict(), timestamp=timestamp, failure=asdict(failure)))
            return failure.status
        return 200


def _counts(effective: SAMPrompts, pending: PendingResult) -> dict[str, int]:
    """Return the numbers of prompts by kind, and 1 for a mask to start from and for a label to protect."""
    return effective.counts() | {name: 1 for name in (START, PROTECT) if (pending.folder / name).exists()}


def _existing(path: Path) -> str | None:
    return str(path) if path.exists() else None


def _receive_file(pending: PendingResult, upload: BinaryIO | None, earlier: StoredResult | None) -> InputFile:
    """Write the image that was sent, or link that of the earlier result."""
    if upload is not None:
        sent = pending.copy(INPUT, upload)
        if earlier is not None and sent.sha256 != earlier.manifest.input.sha256:
            raise RefineError(
                f"the file is not that of the result {print_timestamp(earlier.timestamp)}: "
                "leave the file out, or segment the new file by itself"
            )
        return sent
    if earlier is None:
        raise RefineError("there is no image: send a file, or name one that is here, or the result to refine")
    pending.take_over(earlier.path(INPUT), INPUT)
    return earlier.manifest.input.file


def _start_from(pending: PendingResult, earlier: StoredResult, asked: SAMInput) -> None:
    """Write the mask of an earlier result of one object into the pending result.

    Raises:
        RefineError: If it has another number of objects, no such candidate, or is of another frame.
        UnknownResultError: If it was deleted meanwhile.
    """
    name, facts = print_timestamp(earlier.timestamp), earlier.facts
    if asked.frame not in (None, facts.slice):
        raise RefineError(f"the mask of the result {name} is of frame {facts.slice}: leave the frame out")
    if len(facts.scores) != 1:
        raise RefineError(f"the result {name} has {len(facts.scores)} objects; start from one that has one")
    candidate = asked.candidate or 0
    _check_candidate(earlier, candidate)
    try:
        [mask] = stored_masks(earlier, candidate)
    except FileNotFoundError:
        raise UnknownResultError("the result to start from was deleted in the meantime") from None
    pending.write(START, encode_png(mask.astype(np.uint8)))


def _check_candidate(earlier: StoredResult, candidate: int) -> None:
    if candidate >= earlier.facts.candidates:
        raise RefineError(f"there is no candidate {candidate}; the result has {earlier.facts.candidates}, from 0")


def _has_masks_for(effective: SAMPrompts, earlier: StoredResult, before: SAMPrompts, *, same_frame: bool) -> bool:
    """Return whether the masks of an earlier result can be prompts: frame, model and window are the same.

    Those that correct a mask to start from are not: that is corrected by all prompts.
    """
    is_same_picture = same_frame and effective.model == before.model and effective.window == before.window
    return is_same_picture and LOGITS in earlier.manifest.files and START not in earlier.manifest.files


def _receive_masks(pending: PendingResult, earlier: StoredResult, before: SAMPrompts, candidate: int) -> EarlierMasks:
    """Link the earlier masks into the pending result, for when the request is processed."""
    _check_candidate(earlier, candidate)
    pending.take_over(earlier.path(LOGITS), EARLIER_LOGITS)
    return EarlierMasks(effective=before, checkpoint_sha256=earlier.facts.checkpoint_sha256, candidate=candidate)


def _candidate_first(count: int, candidate: int) -> list[int]:
    """Return the order of candidates with this one first; unchanged for an object that has no such candidate."""
    return sorted(range(count), key=lambda index: index != candidate)


def _describe(file: InputFile, image: MedicalImage, k: int) -> InputFacts:
    instances = image.datasets
    rows, columns = image.frame_size
    return InputFacts(
        **file.as_dict(),
        format=image.file_format,
        modality=image.modality,
        frames=image.frame_count,
        rows=rows,
        columns=columns,
        referable=bool(instances) and is_referable(instances[k if len(instances) > 1 else 0]),
    )


@cache
def _versions() -> dict[str, str]:
    packages = ("monailabel", "monai", "segment-anything", "torch", "openvino", "pydicom", "highdicom")
    return {"sam_app": VERSION, "python": platform.python_version(), **{name: version(name) for name in packages}}
