"""The inference task by itself, as MONAI Label calls it, without a server."""

import time
from dataclasses import replace
from pathlib import Path

import nrrd
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from lib.base.clock import Clock, use_clock
from lib.imaging.image import Display, MedicalImage, Window
from lib.imaging.limits import Limits
from lib.infers.prefetch import Prefetcher
from lib.infers.sam_2d import Sam2D
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.packed_mask import PackedMask
from lib.sam.prompts import PromptError
from support.segment_requests import viewer_request


@pytest.fixture(scope="module")
def task() -> Sam2D:
    return Sam2D("sam_tiny", Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu"), Limits())


def labels_of(path: str) -> np.ndarray:
    labels = nrrd.read(path)[0]
    Path(path).unlink()
    return labels


def test_an_array(task, disc):
    image, truth = disc
    path, facts = task(viewer_request(image, roi=[90, 170, 50, 130, 0, 0], result_extension=".nrrd"))
    labels = labels_of(path)
    assert labels.shape == (240, 200, 1)
    overlap = np.count_nonzero((labels[..., 0].T == 1) & truth)
    assert 2 * overlap / (np.count_nonzero(labels) + np.count_nonzero(truth)) > 0.85
    assert facts["window"]["source"] == "8-bit" and facts["areas"] == [np.count_nonzero(labels)]
    assert set(facts["latencies"]) >= {"pre", "infer", "post", "write", "total"}


def test_a_dicom_series_lies_as_simpleitk_orders_it(task, tmp_path):
    """Files in an order that is not that of the slices; the bright square is on one slice alone."""
    source = pydicom.dcmread(get_testdata_file("CT_small.dcm", download=False))
    for name, slice_number in zip("cadbe", range(5), strict=True):
        source.ImagePositionPatient = [-100, -100, 50 + 4 * slice_number]
        source.SOPInstanceUID = f"1.2.3.{slice_number + 1}"
        source.file_meta.MediaStorageSOPInstanceUID = source.SOPInstanceUID
        source.InstanceNumber = slice_number + 1
        pixels = np.full((128, 128), 900, np.int16)
        if slice_number == 3:
            pixels[40:80, 50:100] = 1200
        source.PixelData = pixels.tobytes()
        source.save_as(tmp_path / f"{name}.dcm")
    path, facts = task(viewer_request(str(tmp_path), foreground=[[75, 60, 3]], result_extension=".nrrd"))
    labels = labels_of(path)
    assert labels.shape == (128, 128, 5) and facts["slice"] == 3
    assert np.argwhere(labels)[:, 2].tolist() == [3] * np.count_nonzero(labels)
    assert labels[75, 60, 3] == 1


def scaled_frames(disc: tuple[np.ndarray, np.ndarray], scales: list[int]) -> MedicalImage:
    """The same picture in frames of different scales, each with its own window."""
    picture = disc[0][..., 0] / disc[0].max()
    frames = np.stack([picture * scale for scale in scales]).astype(np.int16)
    return MedicalImage(frames=frames, displays=tuple(Display((Window(scale / 2, scale),)) for scale in scales))


def test_a_frame_is_seen_in_its_own_window(task, disc):
    image, truth = scaled_frames(disc, [40, 200, 3000, 3000]), disc[1]
    for k, scale in enumerate([40, 200, 3000, 3000]):
        path, facts = task(viewer_request(image, roi=[90, 170, 50, 130, k, k], result_extension=".nrrd"))
        mask = labels_of(path)[..., k].T == 1
        assert (facts["window"]["width"], facts["window"]["source"]) == (scale, "image")
        assert 2 * np.count_nonzero(mask & truth) / (np.count_nonzero(mask) + np.count_nonzero(truth)) > 0.85


def test_neighbours_are_encoded_ahead_as_they_will_be_asked_for(disc):
    engine = Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu")
    task = Sam2D("sam_tiny", engine, Limits(), ahead=Prefetcher(engine, slices=2))
    image = scaled_frames(disc, [40, 200, 3000])

    def click(k: int) -> None:
        labels_of(task(viewer_request(image, foreground=[[130, 90, k]], result_extension=".nrrd"))[0])

    click(1)
    deadline = time.monotonic() + 60
    while engine.queue.stats()["ahead"] and time.monotonic() < deadline:
        time.sleep(0.01)
    engine.queue.run(lambda: None)
    for k in (0, 2):
        with use_clock(Clock()) as clock:
            click(k)
        assert "encode" not in clock.stages


def test_colour(task, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (50, 60, 3), dtype=np.uint8)).save(tmp_path / "c.png")
    path, _ = task(viewer_request(str(tmp_path / "c.png"), foreground=[[30, 20, 0]]))
    assert path.endswith(".png") and np.asarray(Image.open(path)).shape == (50, 60)
    Path(path).unlink()


def test_an_empty_mask_is_a_file_too(task, monkeypatch):
    image = MedicalImage(frames=np.zeros((3, 40, 50), np.int16), is_geometric=True)
    predict = task._engine.predictor("sam_tiny")
    decode = predict.decode

    def nothing(*args, **kwargs):
        [prediction] = decode(*args, **kwargs)
        return [replace(prediction, packed=(PackedMask.of(np.zeros((40, 50), bool)),))]

    monkeypatch.setattr(predict, "decode", nothing)
    path, facts = task(viewer_request(image, foreground=[[5, 5, 1]], result_extension=".nrrd"))
    labels = labels_of(path)
    assert labels.shape == (50, 40, 3) and not labels.any() and facts["areas"] == [0]


def test_viewers_config_is_of_kinds_that_they_show(task):
    assert task.info()["config"] == {
        "window": ["auto", "abdomen", "lung", "mediastinum", "bone", "brain", "liver"],
        "candidates": ["auto", "single", "best of three"],
        "box_from_points": False,
        "largest_component": False,
        "fill_holes": False,
    }


@pytest.mark.parametrize(
    ("request_", "said"),
    [({}, "no prompt"), ({"foreground": [[1, 1, 0]], "result_extension": ".exe"}, "result_extension can be .nrrd")],
)
def test_bad_requests_leave_no_file(task, disc, request_, said, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(PromptError, match=said):
        task(viewer_request(disc[0], **request_))
    assert list(tmp_path.iterdir()) == []
