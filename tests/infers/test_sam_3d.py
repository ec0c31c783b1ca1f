"""The task for volumes by itself, as MONAI Label calls it, without a server."""

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest

from lib.base.clock import Clock, use_clock
from lib.imaging.image import Display, MedicalImage, Window
from lib.imaging.limits import Limits
from lib.infers.sam_3d import Sam3D
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.prompts import PromptError
from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.segment_requests import viewer_request

CLICK = {"foreground": [list(BALL_CENTRE)], "background": [], "result_extension": ".nrrd"}
K = BALL_CENTRE[2]


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu")


@pytest.fixture
def task(engine: Engine) -> Sam3D:
    """Without what an earlier test's clients did."""
    return Sam3D("sam_tiny", engine, Limits())


@pytest.fixture
def ball(tmp_path) -> tuple[str, np.ndarray]:
    """A NIfTI file, and the ball's mask in ``(i, j, k)`` order."""
    values, mask = ball_volume()
    nibabel.save(nibabel.Nifti1Image(values, BALL_AFFINE), tmp_path / "ball.nii.gz")
    return str(tmp_path / "ball.nii.gz"), mask


def ask(
    task: Sam3D, params: dict[str, Any], image: Any, client: str | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    path, facts = task(viewer_request(image, client=client, **params))
    labels = nrrd.read(path)[0]
    Path(path).unlink()
    return labels, facts


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def decodes(task: Sam3D, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets an entry with each decode from now on."""
    predictor = task._engine.predictor("sam_tiny")
    decode, calls = predictor.decode, []

    def counted(*args, **kwargs):
        calls.append(1)
        return decode(*args, **kwargs)

    monkeypatch.setattr(predictor, "decode", counted)
    return calls


@pytest.mark.slow
def test_a_click_as_viewers_send_it(task, ball):
    path, truth = ball
    with use_clock(Clock()) as clock:
        labels, facts = ask(task, {"label": "lesion", "client_id": "x", **CLICK}, path)
    assert set(clock.stages) >= {"read", "window", "encode", "decode", "follow", "write"}
    assert sum(clock.stages.values()) < 2 * clock.elapsed, "two directions are followed at once, and no more"
    assert labels.shape == truth.shape and labels.dtype == np.uint8 and set(np.unique(labels)) == {0, 1}
    assert dice(labels > 0, truth) > 0.85
    slices = np.flatnonzero(labels.any(axis=(0, 1)))
    assert facts["slices"] == [slices[0], slices[-1]] and facts["prompted"] == [K]
    assert facts["voxels"] == np.count_nonzero(labels) == sum(found["area"] for found in facts["found"])
    assert [found["source"] for found in facts["found"] if found["k"] == K] == ["prompts"]
    assert len(facts["stops"]) == 2 and facts["model"] == "sam_tiny" and facts["window"]["source"] == "percentiles"
    assert set(facts["uncertain_slices"]) <= set(range(facts["frames"]))
    assert all(0 <= each["presence"] <= 1 for each in (*facts["found"], *facts["stops"]))
    assert facts["latencies"]["total"] > 0 and len(facts["checkpoint_sha256"]) == 64


def test_points_on_several_slices_and_a_reversed_region(task, ball):
    path, truth = ball
    i, j, k = BALL_CENTRE
    points = {"foreground": [[i, j, k - 3], [i, j, k + 3]], "background": [[2, 2, z] for z in (k - 3, k, k + 3)]}
    labels, facts = ask(task, {**CLICK, **points}, path)
    assert facts["prompted"] == [k - 3, k, k + 3] and dice(labels > 0, truth) > 0.85
    assert {found["source"] for found in facts["found"] if k - 3 < found["k"] < k + 3 and found["k"] != k} == {
        "blended"
    }

    region = {"foreground": [], "roi": [i + 12, i - 11, j + 12, j - 11, k + 3, k - 3]}
    labels, facts = ask(task, {**CLICK, **region}, path)
    assert facts["prompted"] == [k] and facts["slices"] == [k - 3, k + 3]
    assert dice(labels[..., k - 3 : k + 4] > 0, truth[..., k - 3 : k + 4]) > 0.85


@pytest.mark.slow
def test_a_correction_of_the_same_client_takes_over_the_rest(task, ball, monkeypatch):
    path, _ = ball
    i, j, k = BALL_CENTRE
    calls = decodes(task, monkeypatch)
    params = {**CLICK, "label": "lesion", "max_slices": 5}
    first, _ = ask(task, params, path, client="a")
    of_first = len(calls)
    again, _ = ask(task, params, path, client="a")
    assert len(calls) == of_first and np.array_equal(first, again)

    corrected = {**params, "foreground": [[i, j, k], [i, j, k + 3]]}
    ask(task, corrected, path, client="a")
    of_correction = len(calls) - of_first
    ask(task, corrected, path, client="b")
    of_other_client = len(calls) - of_first - of_correction
    assert 0 < of_correction < of_other_client, "what another client did was taken over"

    before = len(calls)
    ask(task, corrected, path)
    ask(task, corrected, path)
    assert len(calls) - before == 2 * of_other_client, "without a client something was kept"
    before = len(calls)
    ask(task, {**corrected, "window": "bone"}, path, client="a")
    assert len(calls) > before, "another window's masks were taken over"


@pytest.mark.parametrize("value", [1, "1"])
def test_max_slices(task, ball, value):
    _, facts = ask(task, {**CLICK, "max_slices": value}, ball[0])
    assert facts["slices"] == [K - 1, K + 1] and {stop["reason"] for stop in facts["stops"]} == {"max_slices"}


def test_only_some_slices_are_searched(task, ball):
    _, facts = ask(task, {**CLICK, "slices": [K + 2, K - 3]}, ball[0])
    assert facts["slices"] == [K - 3, K + 2] and {stop["reason"] for stop in facts["stops"]} == {"end of slices"}
    region = [0, 60, 0, 60, K - 1, K + 9]
    _, facts = ask(task, {"roi": region, "slices": [K - 3, K + 5], "result_extension": ".nrrd"}, ball[0])
    assert facts["slices"][0] == K - 1, "a region bounds them, too"


def test_with_little_time_the_same_prompts_go_on(task, ball, monkeypatch):
    """The clock runs faster than the machine here: a second is over after the first slices."""
    now = time.monotonic
    whole, facts = ask(task, CLICK, ball[0], client="other")
    assert facts["is_complete"]
    began = now()
    monkeypatch.setattr(time, "monotonic", lambda: began + 20 * (now() - began))
    answers = [ask(task, {**CLICK, "seconds": 1}, ball[0], client="a")]
    while not answers[-1][1]["is_complete"]:
        answers.append(ask(task, {**CLICK, "seconds": 1}, ball[0], client="a"))
        assert len(answers) < 100
    assert len(answers) > 1 and np.array_equal(answers[-1][0], whole)
    assert all((one <= other).all() for (one, _), (other, _) in pairwise(answers))


def test_slices_with_windows_of_their_own_are_followed_as_one_volume(task):
    """Windows that suit each slice would show the same tissue differently; slices of another scale need them."""
    frames = np.ascontiguousarray(ball_volume()[0].T).astype(np.float64)
    frames -= frames.min()

    def shown(widths: np.ndarray) -> tuple[Display, ...]:
        return tuple(Display((Window(width / 2, width, "LINEAR_EXACT"),)) for width in widths)

    widths = frames.max() * np.where(np.arange(len(frames)) % 2, 1.0, 1.7)
    alike = MedicalImage(frames=frames, displays=shown(np.full(len(frames), widths[K])), is_geometric=True)
    expected, _ = ask(task, CLICK, alike)
    assert expected[..., K - 1].any() and expected[..., K + 1].any()

    scales = np.where(np.arange(len(frames)) > K, 0.01, 1.0)
    widths[K + 1 :] = 0.01 * widths[K]
    image = MedicalImage(frames=frames * scales[:, None, None], displays=shown(widths), is_geometric=True)
    labels, facts = ask(task, CLICK, image)
    assert facts["window"]["width"] == pytest.approx(widths[K])
    assert dice(labels == 1, expected == 1) > 0.99


def test_one_slice(task, disc):
    image, truth = disc
    labels, facts = ask(task, {"roi": [90, 170, 50, 130, 0, 0], "result_extension": ".nrrd"}, image)
    assert labels.shape == (240, 200, 1) and facts["slices"] == [0, 0]
    assert dice(labels[..., 0].T > 0, truth) > 0.85


def test_two_points_as_a_box(task, ball):
    i, j, k = BALL_CENTRE
    corners = {"foreground": [[i - 11, j - 11, k], [i + 12, j + 12, k]], "box_from_points": True}
    labels, _ = ask(task, {**CLICK, **corners}, ball[0])
    assert dice(labels > 0, ball[1]) > 0.85


def test_an_empty_result_is_a_file_too(task, monkeypatch):
    predictor = task._engine.predictor("sam_tiny")
    decode = predictor.decode

    def nothing(*args, **kwargs):
        predictions = decode(*args, **kwargs)
        predictions[0].low_res_logits[:] = -1
        return predictions

    monkeypatch.setattr(predictor, "decode", nothing)
    image = MedicalImage(frames=np.zeros((3, 40, 50), np.int16), is_geometric=True)
    labels, facts = ask(task, {"foreground": [[5, 5, 1]], "result_extension": ".nrrd"}, image)
    assert labels.shape == (50, 40, 3) and not labels.any()
    assert facts["slices"] is None and facts["voxels"] == 0 and facts["found"] == []


def test_what_viewers_are_told(task):
    info = task.info()
    assert (info["type"].value, info["dimension"], info["labels"]) == ("deepgrow", 3, [])
    presets = ["auto", "abdomen", "lung", "mediastinum", "bone", "brain", "liver"]
    assert info["config"] == {"window": presets, "max_slices": 0, "box_from_points": False}
    assert task.is_valid() and task.engine_model == "sam_tiny"


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        ({}, "nothing marks the object"),
        ({"background": [[1, 1, 0]]}, "nothing marks the object"),
        ({"foreground": [[1, 1, 99]]}, "outside the image"),
        ({"foreground": [[1, 1, 0]], "max_slices": "many"}, "max_slices must be a whole number"),
        ({"foreground": [[1, 1, 0]], "max_slices": -1}, "max_slices must be a whole number"),
        ({"foreground": [[1, 1, 0]], "slices": [0, 9999]}, r"slices are from 0 to \d+, not \[0, 9999\]"),
        ({"foreground": [[1, 1, 0]], "slices": [1, 5]}, r"prompts on the slices \[0\], which are not among"),
        ({"foreground": [[1, 1, 0]], "result_extension": ".png"}, "for 2D images"),
    ],
)
def test_bad_requests_leave_no_file(task, ball, request_, said, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = list(tmp_path.iterdir())
    with pytest.raises(PromptError, match=said):
        task(viewer_request(ball[0], **request_))
    assert list(tmp_path.iterdir()) == before
