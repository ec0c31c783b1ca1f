"""The REST routes' work by itself: the bundled model, a folder of results and the queue, without a server."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from lib.base.clock import Clock
from lib.base.request_record import RequestRecord
from lib.imaging.limits import Limits
from lib.infers.sam_2d import Sam2D
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS, UnknownModelError
from lib.sam.prompts import PromptError
from lib.server.admission import Admission, BusyError
from lib.server.auth.users import User
from lib.server.http.errors import NotFinishedError, RefineError
from lib.server.rest.outputs import stored_labels
from lib.server.rest.refine import EARLIER_LOGITS
from lib.server.rest.results import ResultStore
from lib.server.rest.schemas import SAMInput
from lib.server.rest.segmentation_service import SegmentationService
from lib.transforms.request import Infer, SegmentRequest
from support.rest import DISC_BOX, dice, png

ANN = User("ann")
POINT = {"x": 130, "y": 90}

OLD_REQUEST = {
    "user": ANN.username,
    "created": "2024-11-22T15:20:00.120000+00:00",
    "request": {"model": "SAM", "rectangles": [DISC_BOX], "automatic": True},
    "effective": {"model": "sam_tiny", "rectangles": [DISC_BOX], "label": "disc", "automatic": True},
    "origin": {"request_id": "0123456789abcdef", "client": "127.0.0.1"},
}
"""As version 0.1.0 kept what it had accepted, but for the image and the list of files."""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu")


@pytest.fixture(scope="module")
def infer(engine: Engine) -> Infer:
    """As MONAI Label's app does it for a file."""
    task = Sam2D("sam_tiny", engine, Limits())

    def run(request: SegmentRequest) -> dict[str, Any]:
        file, params = task(request.as_monai())
        return {"file": file, "params": params}

    return run


class Ended(list[tuple[RequestRecord, int]]):
    """What the service told of the queue's segmentations."""

    def __call__(self, record: RequestRecord, clock: Clock, status: int) -> None:
        self.append((record, status))


@pytest.fixture
def ended() -> Ended:
    return Ended()


@pytest.fixture
def make(infer, engine, tmp_path, ended) -> Iterator[Callable[[], SegmentationService]]:
    """Makes a service on the same folder of results, each time as if the server had been restarted."""
    stores: list[ResultStore] = []

    def made() -> SegmentationService:
        if stores:
            stores[-1].close()
        stores.append(ResultStore(tmp_path / "results"))
        limit = Admission(2)
        return SegmentationService(infer, engine, stores[-1], admission=limit, max_seconds=60, observe_job=ended)

    yield made
    for store in stores:
        store.close()


@pytest.fixture
def service(make) -> SegmentationService:
    made: SegmentationService = make()
    return made


@pytest.fixture
def upload(disc) -> Callable[[], io.BytesIO]:
    content = png(disc[0])
    return lambda: io.BytesIO(content)


def sam_input(**fields: object) -> SAMInput:
    return SAMInput.model_validate({"rectangles": [DISC_BOX], **fields})


def wait(service: SegmentationService, timestamp: Decimal) -> str:
    deadline = time.monotonic() + 60
    while service.store.find(timestamp).state == "queued" or service.admission.count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return service.store.find(timestamp).state


def test_an_upload_becomes_a_result(service, upload, disc):
    done = service.segment(upload(), sam_input(label="disc"), ANN, None)
    result = service.store.find(done.timestamp)
    assert result.state == "done" and result.manifest.user == ANN.username
    assert dice(stored_labels(result, 0) == 1, disc[1]) > 0.85
    manifest = result.manifest.as_dict()
    assert manifest["result"] == done.facts and done.facts["model"] == "sam_tiny"
    assert manifest["request"] == {"rectangles": [DISC_BOX], "label": "disc", "automatic": True}
    assert manifest["effective"] == {"model": "sam_tiny", **manifest["request"]}
    assert manifest["input"]["rows"] == 200 and manifest["input"]["bytes"] == len(upload().getvalue())
    assert service.admission.count == 0 and "earlier" not in manifest and "origin" not in manifest


def test_what_cannot_be_done_leaves_nothing(service, upload, tmp_path):
    with pytest.raises(UnknownModelError, match="sam_tiny"):
        service.segment(upload(), sam_input(model="sam_x"), ANN, None)
    with pytest.raises(PromptError, match="no frame 5"):
        service.segment(upload(), sam_input(frame=5), ANN, None)
    with pytest.raises(RefineError, match="no image"):
        service.segment(None, sam_input(), ANN, None)
    assert service.admission.count == 0 and service.store.stats()["results"] == 0
    with service.admission.inside(), service.admission.inside(), pytest.raises(BusyError):
        service.accept(upload(), sam_input(), ANN, None)


def test_what_is_accepted_is_done_by_the_next_server(make, upload, disc, ended):
    timestamp = make().accept(upload(), sam_input(multimask=True), ANN, None)
    after = make()
    assert after.store.find(timestamp).state == "queued"
    after.start()
    assert wait(after, timestamp) == "done"
    result = after.store.find(timestamp)
    assert result.facts.candidates == 3
    assert dice(stored_labels(result, 0) == 1, disc[1]) > 0.85
    [(record, status)] = ended
    assert (
        status == 200
        and record.user == ANN.username
        and record.prompts["rectangles"] == 1
        and record.model == "sam_tiny"
    )


def test_what_an_older_version_accepted_is_done(make, upload, disc, tmp_path, ended):
    service = make()
    folder = tmp_path / "results" / ".1732288000.120000.queued"
    folder.mkdir()
    content = upload().getvalue()
    (folder / "input").write_bytes(content)
    file = {"sha256": "0" * 64, "bytes": len(content)}
    (folder / "request.json").write_text(json.dumps({**OLD_REQUEST, "input": file, "files": {"input": len(content)}}))
    service = make()
    service.start()
    assert wait(service, Decimal("1732288000.12")) == "done"
    result = service.store.find(Decimal("1732288000.12"))
    assert dice(stored_labels(result, 0) == 1, disc[1]) > 0.85
    assert {key: result.manifest.as_dict()[key] for key in OLD_REQUEST if key != "origin"} == {
        key: value for key, value in OLD_REQUEST.items() if key != "origin"
    }
    assert ended[0][0].request_id == "0123456789abcdef" and ended[0][0].client == "127.0.0.1"


def test_a_failure_in_the_queue_is_kept_with_its_reason(service, upload, ended):
    service.start()
    timestamp = service.accept(upload(), sam_input(frame=5), ANN, None)
    assert wait(service, timestamp) == "failed"
    manifest = service.store.find(timestamp).manifest.as_dict()
    assert manifest["failure"]["status"] == 422 and "no frame 5" in manifest["failure"]["detail"]
    assert manifest["user"] == ANN.username and manifest["effective"]["frame"] == 5
    assert [(record.reason, status) for record, status in ended] == [("PromptError", 422)]


def test_prompts_are_added_to_a_result(service, upload, disc):
    first = service.segment(upload(), sam_input(multimask=True, label="disc"), ANN, None)
    earlier = service.store.find(first.timestamp)
    asked = SAMInput.model_validate({"positive_points": [POINT], "refine": str(first.timestamp), "candidate": 1})
    second = service.segment(None, asked, ANN, earlier)
    result = service.store.find(second.timestamp)
    effective = {"model": "sam_tiny", "rectangles": [DISC_BOX], "positive_points": [POINT], "negative_points": []}
    assert result.manifest.effective == {**effective, "label": "disc", "multimask": True, "automatic": True}
    assert result.manifest.request["candidate"] == 1 and EARLIER_LOGITS not in result.manifest.files
    assert result.manifest.input == earlier.manifest.input
    assert dice(stored_labels(result, 0) == 1, disc[1]) > 0.85
    from_masks = second.facts["scores"]
    alone = service.segment(upload(), SAMInput.model_validate(effective), ANN, None)
    assert alone.facts["scores"] != from_masks, "it did not start from the masks"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"candidate": 2}, "no candidate 2; the result has 1"),
        ({"candidate": 1, "frame": 0, "window": {"center": 9, "width": 9}}, "candidate is for refining"),
        ({"rectangles": [{**DISC_BOX, "width": 81 + n} for n in range(254)]}, "254 are possible"),
    ],
)
def test_what_cannot_be_refined_is_refused(service, upload, fields, said):
    earlier = service.store.find(service.segment(upload(), sam_input(), ANN, None).timestamp)
    with pytest.raises(RefineError, match=said):
        service.accept(None, SAMInput.model_validate(fields), ANN, earlier)
    other = io.BytesIO(png(np.zeros((200, 240), np.uint8)))
    with pytest.raises(RefineError, match="is not that of the result"):
        service.segment(other, SAMInput(), ANN, earlier)
    assert service.admission.count == 0


def test_a_result_that_is_not_there_yet_or_failed_is_not_refined(make, upload):
    service = make()
    timestamp = service.accept(upload(), sam_input(frame=5), ANN, None)
    with pytest.raises(NotFinishedError):
        service.segment(None, SAMInput(), ANN, service.store.find(timestamp))
    assert 1 <= service.retry_after(timestamp) <= 60 and not service.lacks_space(timestamp)
    service = make()
    service.start()
    wait(service, timestamp)
    with pytest.raises(RefineError, match="failed"):
        service.segment(None, SAMInput(), ANN, service.store.find(timestamp))
