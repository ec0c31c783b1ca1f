"""The REST routes' work by itself: the bundled model, a folder of results and the queue, without a server."""

from __future__ import annotations

import io
import json
import shutil
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest

from lib.base.clock import Clock
from lib.base.request_record import RequestRecord
from lib.imaging.image import ImageChangedError
from lib.imaging.limits import Limits
from lib.infers.sam_2d import Sam2D
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS, UnknownModelError
from lib.sam.prompts import PromptError
from lib.server.admission import Admission, BusyError
from lib.server.auth.users import User
from lib.server.http.errors import NotFinishedError, RefineError, UnknownImageError
from lib.server.rest import pending as pending_results
from lib.server.rest.outputs import stored_labels
from lib.server.rest.refine import EARLIER_LOGITS
from lib.server.rest.results import ResultStore
from lib.server.rest.schemas import SAMInput
from lib.server.rest.segmentation_service import SegmentationService, SentRequest
from lib.transforms.request import Infer, SegmentRequest
from support.rest import DISC_BOX, dice, png
from support.series import ACQUISITIONS, write_series

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
    done = service.segment(SentRequest(upload(), sam_input(label="disc"), ANN))
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
        service.segment(SentRequest(upload(), sam_input(model="sam_x"), ANN))
    with pytest.raises(PromptError, match="no frame 5"):
        service.segment(SentRequest(upload(), sam_input(frame=5), ANN))
    with pytest.raises(RefineError, match="no image"):
        service.segment(SentRequest(None, sam_input(), ANN))
    assert service.admission.count == 0 and service.store.stats()["results"] == 0
    with service.admission.inside(), service.admission.inside(), pytest.raises(BusyError):
        service.accept(SentRequest(upload(), sam_input(), ANN))


def test_what_is_accepted_is_done_by_the_next_server(make, upload, disc, ended):
    timestamp = make().accept(SentRequest(upload(), sam_input(multimask=True), ANN))
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
    timestamp = service.accept(SentRequest(upload(), sam_input(frame=5), ANN))
    assert wait(service, timestamp) == "failed"
    manifest = service.store.find(timestamp).manifest.as_dict()
    assert manifest["failure"]["status"] == 422 and "no frame 5" in manifest["failure"]["detail"]
    assert manifest["user"] == ANN.username and manifest["effective"]["frame"] == 5
    assert [(record.reason, status) for record, status in ended] == [("PromptError", 422)]


def test_prompts_are_added_to_a_result(service, upload, disc):
    first = service.segment(SentRequest(upload(), sam_input(multimask=True, label="disc"), ANN))
    earlier = service.store.find(first.timestamp)
    asked = SAMInput.model_validate({"positive_points": [POINT], "refine": str(first.timestamp), "candidate": 1})
    second = service.segment(SentRequest(None, asked, ANN, earlier))
    result = service.store.find(second.timestamp)
    effective = {"model": "sam_tiny", "rectangles": [DISC_BOX], "positive_points": [POINT], "negative_points": []}
    assert result.manifest.effective == {**effective, "label": "disc", "multimask": True, "automatic": True}
    assert result.manifest.request["candidate"] == 1 and EARLIER_LOGITS not in result.manifest.files
    assert result.manifest.input == earlier.manifest.input
    assert dice(stored_labels(result, 0) == 1, disc[1]) > 0.85
    from_masks = second.facts["scores"]
    alone = service.segment(SentRequest(upload(), SAMInput.model_validate(effective), ANN))
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
    earlier = service.store.find(service.segment(SentRequest(upload(), sam_input(), ANN)).timestamp)
    with pytest.raises(RefineError, match=said):
        service.accept(SentRequest(None, SAMInput.model_validate(fields), ANN, earlier))
    other = io.BytesIO(png(np.zeros((200, 240), np.uint8)))
    with pytest.raises(RefineError, match="is not that of the result"):
        service.segment(SentRequest(other, SAMInput(), ANN, earlier))
    assert service.admission.count == 0


def test_a_result_that_is_not_there_yet_or_failed_is_not_refined(make, upload):
    service = make()
    timestamp = service.accept(SentRequest(upload(), sam_input(frame=5), ANN))
    with pytest.raises(NotFinishedError):
        service.segment(SentRequest(None, SAMInput(), ANN, service.store.find(timestamp)))
    assert 1 <= service.retry_after(timestamp) <= 60 and not service.lacks_space(timestamp)
    service = make()
    service.start()
    wait(service, timestamp)
    with pytest.raises(RefineError, match="failed"):
        service.segment(SentRequest(None, SAMInput(), ANN, service.store.find(timestamp)))


OBLIQUE = next(one for one in ACQUISITIONS if one.name == "oblique")
ON_SERIES = SAMInput.model_validate({"positive_points": [{"x": 61, "y": 38}], "frame": 12})


@pytest.fixture
def series(tmp_path) -> Path:
    write_series(tmp_path / "series", OBLIQUE)
    return tmp_path / "series"


@pytest.fixture
def study(tmp_path, upload) -> Path:
    (tmp_path / "study.png").write_bytes(upload().getvalue())
    return tmp_path / "study.png"


def of(path: Path, asked: SAMInput) -> SentRequest:
    """A request for an image that the server has."""
    return SentRequest(None, asked, ANN, stored=lambda: path)


def made(service: SegmentationService, timestamp: Decimal, name: str) -> pydicom.Dataset:
    result = service.renderings.with_file(service.store.find(timestamp), name)
    return pydicom.dcmread(result.path(name))


def test_an_image_of_the_server_becomes_a_result_as_an_upload_does(service, upload, study):
    sent = service.segment(SentRequest(upload(), sam_input(), ANN))
    stored = service.segment(of(study, sam_input()))
    before, after = service.store.find(sent.timestamp), service.store.find(stored.timestamp)
    assert after.manifest.input == before.manifest.input and stored.facts == sent.facts
    assert after.path("input").samefile(before.path("input")), "the same image is stored twice"
    assert not after.path("input").samefile(study), "who writes to the study would write into the result"


def test_a_series_of_the_server_is_kept_with_its_result_and_referred_to_by_the_frame(service, series):
    size = sum(file.stat().st_size for file in series.iterdir())
    first = service.segment(of(series, ON_SERIES)).timestamp
    second = service.segment(of(series, ON_SERIES.model_copy(update={"frame": 3}))).timestamp
    by_height = sorted(map(pydicom.dcmread, series.iterdir()), key=lambda one: OBLIQUE.step @ one.ImagePositionPatient)
    for timestamp, k in ((first, 12), (second, 3)):
        result = service.store.find(timestamp)
        assert result.manifest.files["input"] == result.manifest.input.bytes == size
        assert result.manifest.input.frames == 20 and result.manifest.input.referable and result.facts.slice == k
        seg, capture = made(service, timestamp, "segmentation.dcm"), made(service, timestamp, "secondary_capture.dcm")
        [referred] = seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
        assert referred.ReferencedSOPInstanceUID == by_height[k].SOPInstanceUID
        assert capture.SourceImageSequence[0].ReferencedSOPInstanceUID == by_height[k].SOPInstanceUID
        [frame] = seg.PerFrameFunctionalGroupsSequence
        place = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(place, by_height[k].ImagePositionPatient, atol=1e-4)
        for made_of_it in (seg, capture):
            for keyword in ("PatientID", "PatientName", "StudyInstanceUID"):
                assert made_of_it[keyword].value == by_height[k][keyword].value
    files = [sorted(service.store.find(timestamp).path("input").iterdir()) for timestamp in (first, second)]
    assert all(a.samefile(b) for a, b in zip(*files, strict=True)), "the same series is stored twice"
    service.store._delete(f"{first:.6f}")
    refined = service.segment(SentRequest(None, refining(second), ANN, service.store.find(second)))
    assert service.store.find(refined.timestamp).manifest.input == service.store.find(second).manifest.input


def refining(timestamp: Decimal) -> SAMInput:
    return SAMInput.model_validate({"refine": timestamp, "negative_points": [{"x": 5, "y": 5}]})


@pytest.mark.parametrize("kind", ["study", "series"])
def test_what_becomes_of_the_image_later_does_not_change_its_results(service, request, kind):
    image: Path = request.getfixturevalue(kind)
    asked = sam_input() if kind == "study" else ON_SERIES
    timestamp = service.segment(of(image, asked)).timestamp
    before = service.store.find(timestamp)
    for file in sorted(image.iterdir())[:5] if image.is_dir() else [image]:
        file.write_bytes(b"something else")  # into the file itself, not in its place
    segmented = service.segment(SentRequest(None, refining(timestamp), ANN, before))
    after = service.store.find(segmented.timestamp)
    assert after.manifest.input == before.manifest.input
    assert (after.folder / "frame.npy").read_bytes() == (before.folder / "frame.npy").read_bytes()


def test_what_is_accepted_of_a_series_is_done_by_the_next_server_also_if_the_series_is_gone(make, series):
    timestamp = make().accept(of(series, ON_SERIES))
    shutil.rmtree(series)
    after = make()
    after.start()
    assert wait(after, timestamp) == "done"
    assert after.store.find(timestamp).manifest.input.frames == 20
    assert made(after, timestamp, "segmentation.dcm").Modality == "SEG"


def test_a_stored_series_with_a_file_missing_is_damaged(make, series):
    service = make()
    timestamp = service.segment(of(series, ON_SERIES)).timestamp
    next(service.store.find(timestamp).path("input").iterdir()).unlink()
    assert make().store.stats()["results"] == 0


def test_an_image_that_is_gone_or_another_leaves_nothing(service, study, series, tmp_path, monkeypatch):
    with pytest.raises(UnknownImageError, match="no longer there"):
        service.segment(of(tmp_path / "gone.png", sam_input()))
    with pytest.raises(ImageChangedError, match="changed since it was opened"):
        service.segment(of(study, sam_input(version="0123456789abcdef")))

    def copy_and_write(source: Path, target: Path) -> None:
        source.write_bytes(source.read_bytes() + b" ")
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(pending_results.shutil, "copyfile", copy_and_write)
    for image, asked in ((study, sam_input()), (series, ON_SERIES)):
        with pytest.raises(ImageChangedError, match="while it was read"):
            service.segment(of(image, asked))
    assert service.store.stats() == {"results": 0, "queued": 0, "bytes": 0} and service.admission.count == 0
    assert [path.name for path in service.store._folder.iterdir()] == [".lock"]


def test_an_image_is_copied_if_the_result_that_has_it_is_damaged(service, series):
    first = service.store.find(service.segment(of(series, ON_SERIES)).timestamp)
    for file in sorted(first.path("input").iterdir())[10:]:
        file.unlink()
    second = service.store.find(service.segment(of(series, ON_SERIES)).timestamp)
    assert second.manifest.input == first.manifest.input and len(list(second.path("input").iterdir())) == 20
