"""A viewer's scribbles, lassos and labels to start from, by ``POST /infer``, on the real server."""

from __future__ import annotations

import io
import json
from typing import Any

import nibabel
import nrrd
import numpy as np
import pytest

from support.phantoms import BALL_AFFINE, BALL_CENTRE, ball_volume
from support.rest import dice

pytestmark = pytest.mark.server

X, Y, K = BALL_CENTRE
TRUTH = ball_volume()[1]
"""The ball, ``[i, j, k]``."""


def ask(server, model: str = "sam_tiny", sent: np.ndarray | None = None, status: int = 200, **params: Any) -> Any:
    """Ask for labels, ``[i, j, k]``, or for the reason of a refusal."""
    files = {}
    if sent is not None:
        files["label"] = ("label.nii", nibabel.Nifti1Image(sent.astype(np.uint8), BALL_AFFINE).to_bytes())
    form = {"params": json.dumps({"result_extension": ".nrrd", **params})}
    answer = server.post(f"/infer/{model}?image=ball&output=image", data=form, files=files or None)
    assert answer.status_code == status, answer.text
    if status != 200:
        return answer.json()["detail"]
    stream = io.BytesIO(answer.content)
    return nrrd.read_data(nrrd.read_header(stream), stream) > 0


def ring(k: int, radius: float) -> list[list[float]]:
    turns = np.linspace(0, 2.1 * np.pi, 30)
    return [[float(X + radius * np.cos(turn)), float(Y + radius * np.sin(turn)), k] for turn in turns]


def half(k: int) -> dict[str, Any]:
    """A negative lasso over all that is right of the ball's middle on a slice."""
    return {"points": [[X, -9, k], [999, -9, k], [999, 999, k], [X, 999, k]], "positive": False}


def radius_on(k: int) -> float:
    return float(np.sqrt(TRUTH[..., k].sum() / np.pi))


def test_a_lasso_or_a_scribble_on_a_slice(server):
    around = {"points": ring(K, radius_on(K) + 4)}
    across = {"points": [[X - 6, Y, K], [X, Y + 2, K], [X + 6, Y, K]], "width": 4}
    for drawn in ({"lassos": [around]}, {"scribbles": [across]}):
        found = ask(server, **drawn)
        assert not found[..., :K].any() and not found[..., K + 1 :].any()
        assert dice(found[..., K], TRUTH[..., K]) > 0.85, drawn
    cut = ask(server, lassos=[around, half(K)])
    assert not cut[X:, :, K].any() and dice(cut[:X, :, K], TRUTH[:X, :, K]) > 0.8


@pytest.mark.slow
def test_drawings_through_the_volume(server):
    across = {"points": [[X - 6, Y, K], [X, Y + 2, K], [X + 6, Y, K]]}
    found = ask(server, "sam_tiny_3d", scribbles=[across], lassos=[half(K + 2)])
    assert not found[X:, :, K + 2].any() and dice(found[:X, :, K + 2], TRUTH[:X, :, K + 2]) > 0.7
    others = [k for k in range(TRUTH.shape[2]) if k != K + 2]
    assert dice(found[..., others], TRUTH[..., others]) > 0.75
    around = ask(server, "sam_tiny_3d", lassos=[{"points": ring(K, radius_on(K) + 4)}])
    assert dice(around, TRUTH) > 0.85


def test_points_correct_a_label_that_is_sent(server):
    wrong = TRUTH.copy()
    wrong[:6, :6, K] = True
    params = {"background": [[2, 2, K]], "start_from_label": True}
    found = ask(server, sent=wrong, **params)
    assert np.array_equal(found[..., K], TRUTH[..., K]), "the piece is gone, and nothing else is changed"
    assert not np.array_equal(ask(server, sent=wrong, foreground=[[X, Y, K]])[..., K], wrong[..., K]), "it is not used"
    lacks = TRUTH.copy()
    lacks[X:, :, K] = False
    assert dice(ask(server, sent=lacks, foreground=[[X + 6, Y, K]], start_from_label=True)[..., K], TRUTH[..., K]) > 0.9


@pytest.mark.slow
def test_points_correct_a_label_through_the_volume(server):
    far = {"background": [[1, 1, K]], "start_from_label": True}
    assert np.array_equal(ask(server, "sam_tiny_3d", sent=TRUTH, **far), TRUTH), "the point is not on it"
    wrong = TRUTH.copy()
    wrong[:6, :6, K] = True
    found = ask(server, "sam_tiny_3d", sent=wrong, **{**far, "background": [[2, 2, K]]})
    assert np.array_equal(found, TRUTH)
    cut = ask(server, "sam_tiny_3d", sent=TRUTH, lassos=[half(K)], start_from_label=True)
    assert not cut[X:, :, K].any() and dice(cut[:X, :, K], TRUTH[:X, :, K]) > 0.9


def test_points_correct_the_label_that_is_stored(server):
    assert "no label to start from" in ask(server, status=422, background=[[2, 2, K]], start_from_label=True)
    stored = ask(server, foreground=[[X, Y, K]], save_label=True)
    corrected = ask(server, background=[[1, 1, K]], start_from_label=True)
    assert np.array_equal(corrected, stored)


def test_a_label_that_cannot_be_started_from_is_refused(server):
    two = TRUTH.astype(np.uint8)
    two[:6, :6, K] = 2
    wrong = {"background": [[1, 1, K]], "start_from_label": True}
    assert "the values 1, 2 on slice" in ask(server, sent=two, status=422, **wrong)
    named = {"label": "ball", "label_info": [{"name": "ball", "idx": 1}]}
    assert np.array_equal(ask(server, sent=two, **wrong, **named)[..., K], TRUTH[..., K])
    assert "own prompts" in ask(server, sent=two, status=422, prompts="labels", start_from_label=True)
    assert "do not lie on" in ask(server, sent=TRUTH[:-1], status=422, **wrong)


@pytest.mark.slow
def test_other_objects_of_a_label_are_not_covered_if_they_are_protected(server):
    present = np.where(TRUTH, 1, 0).astype(np.uint8)
    present[X:][TRUTH[X:]] = 2
    click = {"foreground": [[X - 5, Y, K]], "fill_holes": True}
    named = {"label": "left", "label_info": [{"name": "left", "idx": 1}, {"name": "right", "idx": 2}]}
    for model, slices in (("sam_tiny", [K]), ("sam_tiny_3d", list(range(TRUTH.shape[2])))):
        whole = ask(server, model, sent=present, **click, **named)
        assert dice(whole[..., slices], TRUTH[..., slices]) > 0.8, "it covers both"
        kept = ask(server, model, sent=present, **click, **named, protect=True)
        assert np.array_equal(kept, whole & (present != 2))
        assert not (ask(server, model, sent=present, **click, protect=True) & TRUTH).any(), "whose label is not named"
