"""What is made of a stored result, without a server: by the store, on a disk that can be full, by many at once."""

from __future__ import annotations

import errno
import io
import os
import resource
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from lib.base.clock import Clock, TimeLimitError, use_clock
from lib.imaging.image import CorruptImageError, ImageTooLargeError, MedicalImage
from lib.imaging.readers import read_image
from lib.imaging.views import contour, overlay
from lib.sam.packed_mask import PackedMask
from lib.sam.predictor import Prediction
from lib.server.http.errors import NoSpaceError, UnknownResultError
from lib.server.rest import renderings as module
from lib.server.rest import results
from lib.server.rest.manifest import InputFacts, Manifest, ResultFacts
from lib.server.rest.outputs import write_outputs
from lib.server.rest.renderings import Renderings, check_file
from lib.server.rest.results import ResultStore, StoredResult

CANDIDATES = 2
NAMES = {
    kind: tuple(f"{prefix}{kind}" for prefix in ("", "candidate-1-"))
    for kind in ("overlay.png", "contour.png", "secondary_capture.dcm", "segmentation.dcm")
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ResultStore]:
    opened = ResultStore(tmp_path / "results")
    yield opened
    opened.close()


def predictions(size: tuple[int, int]) -> list[Prediction]:
    """Two objects; of the first there are two candidates."""
    large, small, other = (np.zeros(size, bool) for _ in range(3))
    large[2:20, 3:20], small[5:9, 5:9], other[-4:, -5:] = True, True, True
    return [
        Prediction(
            tuple(map(PackedMask.of, masks)),
            np.linspace(0.9, 0.8, len(masks), dtype=np.float32),
            np.zeros((len(masks), 4, 4), "f4"),
        )
        for masks in ([large, small], [other])
    ]


def labels_of(size: tuple[int, int], candidate: int) -> np.ndarray:
    labels = np.zeros(size, np.uint8)
    first, second = predictions(size)
    labels[first.masks[candidate]], labels[second.masks[0]] = 1, 2
    return labels


def a_result(store: ResultStore, image: MedicalImage, content: bytes = b"", *, k: int = 0) -> StoredResult:
    """A finished result of that upload, as the service writes it."""
    frame = image.frames[k]
    if frame.ndim == 2:
        frame = np.repeat((frame % 251).astype(np.uint8)[..., None], 3, axis=2)
    data = {
        "image": image,
        "frame": frame,
        "objects": ["one", "two"],
        "predictions": predictions(image.frame_size),
    }
    referable = bool(image.datasets) and "SOPInstanceUID" in image.datasets[0]
    with store.new() as pending:
        pending.write("input", content)
        write_outputs(pending, data, CANDIDATES)
        pending.finish(
            Manifest(
                user="someone",
                effective={"label": "liver"},
                input=InputFacts(sha256="ff", bytes=len(content), format=image.file_format, referable=referable),
                result=ResultFacts(
                    model="sam_tiny",
                    checkpoint_sha256="0123456789abcdef",
                    slice=k,
                    candidates=CANDIDATES,
                    scores=[0.9, 0.8],
                ),
                versions={"sam_app": "1.2.3"},
            )
        )
    return store.find(pending.timestamp)


def a_picture(store: ResultStore, *, colour: bool = True, size: tuple[int, int] = (30, 40)) -> StoredResult:
    shape = (1, *size, 3) if colour else (1, *size)
    pixels = np.random.default_rng(1).integers(0, 250, shape, dtype=np.uint8)
    return a_result(store, MedicalImage(frames=pixels, file_format="PNG"))


def a_dicom(store: ResultStore, path: Path, *, k: int = 0, without: str | None = None) -> StoredResult:
    dataset = pydicom.dcmread(path)
    if without:
        delattr(dataset, without)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset)
    source = store._folder.parent / "source.dcm"
    source.write_bytes(buffer.getvalue())
    return a_result(store, read_image(source), buffer.getvalue(), k=k)


def made(store: ResultStore, result: StoredResult, name: str) -> bytes:
    return Renderings(store).with_file(result, name).path(name).read_bytes()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def dataset(content: bytes) -> pydicom.Dataset:
    return pydicom.dcmread(io.BytesIO(content))


def frame_of(result: StoredResult) -> np.ndarray:
    frame = np.load(result.path("frame.npy"))
    return frame if frame.ndim == 3 else np.repeat(frame[..., None], 3, axis=2)


@pytest.mark.parametrize("colour", [True, False])
def test_the_views_of_every_candidate(store, colour):
    result = a_picture(store, colour=colour)
    frame = frame_of(result)
    assert np.array_equal(pixels(made(store, result, "image.png")), frame)
    assert np.load(result.path("frame.npy")).ndim == (3 if colour else 2)
    for candidate in range(CANDIDATES):
        labels = labels_of(frame.shape[:2], candidate)
        for kind, view in (("overlay.png", overlay), ("contour.png", contour)):
            assert np.array_equal(pixels(made(store, result, NAMES[kind][candidate])), view(frame, labels))
    masks = [pixels(result.path(f"{prefix}mask.png").read_bytes()) for prefix in ("", "candidate-1-")]
    assert all(np.array_equal(mask, labels_of(frame.shape[:2], n)) for n, mask in enumerate(masks))


def test_objects_of_a_picture_reference_the_one_source_that_was_made_of_it(store):
    result = a_picture(store)
    objects = [dataset(made(store, result, name)) for name in NAMES["segmentation.dcm"]]
    objects += [dataset(made(store, result, name)) for name in NAMES["secondary_capture.dcm"]]
    source = dataset(made(store, store.find(result.timestamp), "source.dcm"))
    assert np.array_equal(source.pixel_array, frame_of(result))
    assert source.DerivationDescription == "Converted from PNG" and source.SoftwareVersions == "1.2.3"
    for item in objects:
        assert item.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
        assert item.StudyInstanceUID == source.StudyInstanceUID
    assert len({item.SOPInstanceUID for item in [*objects, source]}) == len(objects) + 1


def test_objects_of_a_dicom_upload_reference_it_and_its_frame(store, sample):
    source = pydicom.dcmread(sample("SC_rgb_rle_2frame.dcm"), stop_before_pixels=True)
    result = a_dicom(store, sample("SC_rgb_rle_2frame.dcm"), k=1)
    for candidate in range(CANDIDATES):
        for kind in ("secondary_capture.dcm", "segmentation.dcm"):
            item = dataset(made(store, result, NAMES[kind][candidate])).SourceImageSequence[0]
            assert item.ReferencedSOPInstanceUID == source.SOPInstanceUID and item.ReferencedFrameNumber == 2
    with pytest.raises(UnknownResultError, match=r"has no source.dcm"):
        made(store, result, "source.dcm")
    assert "source.dcm" not in os.listdir(result.folder)


def test_a_dicom_upload_that_does_not_say_which_instance_it_is_gets_a_source_in_its_study(store, sample):
    result = a_dicom(store, sample("CT_small.dcm"), without="SOPInstanceUID")
    header = pydicom.dcmread(sample("CT_small.dcm"), stop_before_pixels=True)
    segmentation = dataset(made(store, result, "segmentation.dcm"))
    source = dataset(made(store, store.find(result.timestamp), "source.dcm"))
    assert source.StudyInstanceUID == segmentation.StudyInstanceUID == header.StudyInstanceUID
    assert source.PatientID == header.PatientID and source.DerivationDescription == "Converted from DICOM"
    assert segmentation.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_objects_say_what_made_them_and_when_the_result_was_asked_for(store, monkeypatch):
    result = a_picture(store)
    asked = datetime.fromtimestamp(float(result.timestamp))

    class Later(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.fromtimestamp(float(result.timestamp), tz) + timedelta(days=40)

    monkeypatch.setattr(module, "datetime", Later)
    capture = dataset(made(store, result, NAMES["secondary_capture.dcm"][1]))
    segmentation = dataset(made(store, result, NAMES["segmentation.dcm"][1]))
    for item in (capture, segmentation):
        assert (item.ContentDate, item.ContentTime) == (asked.strftime("%Y%m%d"), asked.strftime("%H%M%S.%f"))
        assert "candidate 2" in item.SeriesDescription
    assert capture.DerivationDescription == "Segmented by sam_tiny from user prompts, candidate 2"
    assert [item.SegmentLabel for item in segmentation.SegmentSequence] == ["liver 1", "liver 2"]
    assert segmentation.SegmentSequence[0].SegmentAlgorithmType == "SEMIAUTOMATIC"
    planes = segmentation.pixel_array
    assert np.array_equal(planes[0] + 2 * planes[1], labels_of((30, 40), 1))


def test_what_was_made_is_kept_with_its_uids_and_counted_also_by_the_next_server(store):
    result = a_picture(store)
    before = store.stats()["bytes"]
    contents = {name: made(store, result, name) for name in (*NAMES["segmentation.dcm"], "source.dcm", "overlay.png")}
    listed = store.find(result.timestamp).manifest.files
    assert all(listed[name] == len(content) for name, content in contents.items())
    assert store.stats()["bytes"] == before + sum(map(len, contents.values()))
    store.close()
    reopened = ResultStore(store._folder)
    assert reopened.stats()["bytes"] == before + sum(map(len, contents.values()))
    for name, content in contents.items():
        assert made(reopened, reopened.find(result.timestamp), name) == content
    reopened.close()


@pytest.mark.parametrize("name", ["overlay.png", "segmentation.dcm"])
def test_however_many_ask_at_once_it_is_made_once(store, monkeypatch, name):
    result, counts, together = a_picture(store), {"made": 0}, threading.Barrier(8)
    write = module.ResultStore.add

    def counting(self, *arguments):
        counts["made"] += 1
        time.sleep(0.05)
        return write(self, *arguments)

    monkeypatch.setattr(module.ResultStore, "add", counting)
    shared = Renderings(store)

    def ask(_: int) -> bytes:
        together.wait(10)
        return shared.with_file(result, name).path(name).read_bytes()

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, range(8)))
    assert len(answers) == 1
    assert counts["made"] == (2 if name.endswith(".dcm") else 1), "the file and, of a DICOM object, its source"
    assert shared.with_file(result, name).path(name).read_bytes() in answers, "an old look at the result will do"
    assert counts["made"] <= 2


def test_everything_asked_for_at_once_is_there_and_listed_afterwards(store):
    result = a_picture(store)
    names = [name for kind in NAMES.values() for name in kind] + ["image.png", "source.dcm"]
    shared = Renderings(store)
    with ThreadPoolExecutor(10) as pool:
        list(pool.map(lambda name: shared.with_file(result, name), names))
    files = store.find(result.timestamp).manifest.files
    assert set(names) <= set(files)
    references = {
        dataset((result.folder / name).read_bytes()).SourceImageSequence[0].ReferencedSOPInstanceUID
        for kind in ("secondary_capture.dcm", "segmentation.dcm")
        for name in NAMES[kind]
    }
    assert references == {dataset((result.folder / "source.dcm").read_bytes()).SOPInstanceUID}


def test_more_renderings_than_cores_wait_and_give_up_when_their_time_is_up(store, monkeypatch):
    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)
    result, shared = a_picture(store), Renderings(store)
    with shared._slot(), use_clock(Clock(0.1)), pytest.raises(TimeLimitError):
        shared.with_file(result, "overlay.png")
    assert shared.with_file(result, "overlay.png").path("overlay.png").is_file()


@pytest.mark.parametrize("moment", ["write", "fsync"])
def test_a_full_disk_leaves_the_result_as_it_was(store, monkeypatch, moment):
    result = a_picture(store)
    before = {path.name: path.read_bytes() for path in result.folder.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    with monkeypatch.context() as patch:
        if moment == "fsync":
            patch.setattr(results.os, "fsync", full)
        else:  # half of a file is written
            resource.setrlimit(resource.RLIMIT_FSIZE, (64, unlimited[1]))
        try:
            for name in ("overlay.png", "segmentation.dcm"):
                with pytest.raises(NoSpaceError, match="no space left"):
                    made(store, result, name)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert {path.name: path.read_bytes() for path in result.folder.iterdir()} == before
    assert made(store, result, "segmentation.dcm")


def test_a_crash_before_the_manifest_lists_it_leaves_nothing_that_is_served(store):
    result = a_picture(store)
    (result.folder / ".overlay.png.part").write_bytes(b"half")
    (result.folder / "overlay.png").write_bytes(b"not listed")
    store.close()
    reopened = ResultStore(store._folder)
    found = reopened.find(result.timestamp)
    with pytest.raises(UnknownResultError):
        found.path("overlay.png")
    assert not (result.folder / ".overlay.png.part").exists()
    assert pixels(made(reopened, found, "overlay.png")).shape == (30, 40, 3)
    reopened.close()


def test_a_damaged_rendering_is_not_served(store):
    result = a_picture(store)
    made(store, result, "overlay.png")
    (result.folder / "overlay.png").write_bytes(b"short")
    with pytest.raises(UnknownResultError):
        store.find(result.timestamp)
    with pytest.raises(UnknownResultError):
        made(store, result, "contour.png")


@pytest.mark.parametrize("moment", ["before it is made", "while it is made"])
def test_a_result_that_is_deleted_meanwhile_is_unknown(store, monkeypatch, moment):
    result = a_picture(store)
    if moment == "before it is made":
        store._delete(result.folder.name)
    else:
        encode = module.encode_png

        def delete_first(view: np.ndarray) -> bytes:
            store._delete(result.folder.name)
            return encode(view)

        monkeypatch.setattr(module, "encode_png", delete_first)
    with pytest.raises(UnknownResultError):
        made(store, result, "overlay.png")
    assert [path.name for path in store._folder.iterdir()] == [".lock"]


def test_what_is_made_later_makes_older_results_go(store):
    old, new = a_picture(store), a_picture(store)
    store._max_bytes = store.stats()["bytes"] + 100
    made(store, new, "segmentation.dcm")
    with pytest.raises(UnknownResultError):
        store.find(old.timestamp)
    assert store.stats()["bytes"] == sum(store.find(new.timestamp).manifest.files.values())


def test_a_result_that_got_every_file_at_once_is_served_as_it_is(store):
    with store.new() as pending:
        pending.write("overlay.png", b"an overlay")
        facts = ResultFacts(model="m", checkpoint_sha256="0", slice=0, candidates=1, scores=[])
        pending.finish(Manifest(user="someone", input=InputFacts(sha256="f", bytes=1, format="DICOM"), result=facts))
    result = store.find(pending.timestamp)
    check_file(result, "overlay.png")
    assert made(store, result, "overlay.png") == b"an overlay"
    for name in ("source.dcm", "candidate-1-overlay.png", "manifest.json", "../overlay.png"):
        with pytest.raises(UnknownResultError, match="has no"):
            check_file(result, name)
        with pytest.raises(UnknownResultError, match="has no"):
            made(store, result, name)


def test_a_picture_too_long_for_dicom_is_seen_and_refused_as_dicom(store):
    result = a_picture(store, colour=False, size=(24, 65_540))
    assert pixels(made(store, result, "overlay.png")).shape == (24, 65_540, 3)
    for name in ("secondary_capture.dcm", "segmentation.dcm", "source.dcm"):
        check_file(result, name)
        with pytest.raises(ImageTooLargeError, match="at most 65535"):
            made(store, result, name)


def test_a_damaged_header_is_refused_when_an_object_is_to_be_made_of_it(store, sample):
    """A number in a sequence that belongs to the study: reading the image has no use for it."""
    header = pydicom.dcmread(sample("CT_small.dcm"))
    header.ProcedureCodeSequence = [pydicom.Dataset()]
    header.ProcedureCodeSequence[0].PatientWeight = "12345.67"
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, header)
    damaged = buffer.getvalue().replace(b"12345.67", b"123\x985.67")
    path = store._folder.parent / "damaged.dcm"
    path.write_bytes(damaged)
    result = a_result(store, read_image(path), damaged)
    assert made(store, result, "overlay.png")
    for name in ("secondary_capture.dcm", "segmentation.dcm"):
        with pytest.raises(CorruptImageError, match="header is damaged"):
            made(store, result, name)
        assert name not in os.listdir(result.folder)


def test_a_failure_is_not_remembered(store, monkeypatch):
    result, shared = a_picture(store), Renderings(store)
    with monkeypatch.context() as patch:
        patch.setattr(module, "encode_png", lambda _: (_ for _ in ()).throw(RuntimeError("broken")))
        with pytest.raises(RuntimeError, match="broken"):
            shared.with_file(result, "overlay.png")
    assert shared.with_file(result, "overlay.png").timestamp == result.timestamp > Decimal(0)


def overlapping(size: tuple[int, int]) -> list[np.ndarray]:
    """An organ, a lesion inside it, and one across its border; and one that is wholly below another of its size."""
    organ, lesion, across = (np.zeros(size, bool) for _ in range(3))
    organ[2:20, 3:20], lesion[5:9, 5:9], across[15:25, 10:18] = True, True, True
    return [organ, lesion, across, across.copy()]


def an_overlapping_result(store: ResultStore, *, kept: bool = True) -> tuple[StoredResult, list[np.ndarray]]:
    """A result of such objects; without ``kept`` as they were stored before their whole masks were."""
    masks = overlapping((30, 41))
    image = MedicalImage(frames=np.zeros((1, 30, 41), np.uint8), file_format="PNG")
    packed = [PackedMask.of(mask) for mask in masks]
    found = [Prediction((mask,), np.ones(1, "f4"), np.zeros((1, 4, 4), "f4")) for mask in packed]
    data = {"image": image, "frame": np.zeros((30, 41, 3), np.uint8), "objects": packed, "predictions": found}
    scores = [1.0] * len(masks)
    facts = ResultFacts(model="m", checkpoint_sha256="0" * 16, slice=0, candidates=1, scores=scores)
    with store.new() as pending:
        write_outputs(pending, data, 1)
        if not kept:
            (pending.folder / "masks.npz").unlink()
        pending.finish(
            Manifest(
                user="someone",
                input=InputFacts(sha256="ff", bytes=1, format="PNG"),
                result=facts,
                versions={"sam_app": "1"},
            )
        )
    return store.find(pending.timestamp), masks


def test_overlapping_objects_keep_their_whole_masks_in_the_segmentation(store):
    result, masks = an_overlapping_result(store)
    found = dataset(made(store, result, "segmentation.dcm"))
    assert found.SegmentsOverlap == "YES" and found.NumberOfFrames == len(masks)
    assert np.array_equal(found.pixel_array.astype(bool), masks)


def test_each_overlapping_object_can_be_had_alone_and_whole(store):
    result, masks = an_overlapping_result(store)
    for number, mask in enumerate(masks, start=1):
        assert np.array_equal(pixels(made(store, result, f"object-{number}-mask.png")), mask * np.uint8(number))
    labels = pixels(result.path("mask.png").read_bytes())
    assert np.count_nonzero(labels == 2) == 16 and not (labels == 3).any(), "the smaller, or the later, is on top"
    with pytest.raises(UnknownResultError):
        made(store, result, "object-5-mask.png")


def test_results_from_before_whole_masks_were_kept_are_read(store):
    result, masks = an_overlapping_result(store, kept=False)
    labels = pixels(result.path("mask.png").read_bytes())
    found = dataset(made(store, result, "segmentation.dcm"))
    assert found.SegmentsOverlap == "NO"
    assert np.array_equal(found.pixel_array.astype(bool), [labels == number for number in range(1, len(masks) + 1)])
    assert np.array_equal(pixels(made(store, result, "object-1-mask.png")), labels == 1)


def test_without_an_overlap_nothing_more_is_stored(store):
    assert not any("masks" in name for name in a_picture(store).manifest.files)
