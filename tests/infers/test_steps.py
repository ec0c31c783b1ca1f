"""Undoing a viewer's steps: which prompts are left, and that the mask is the one that was shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
from PIL import Image

from lib.imaging.limits import Limits
from lib.infers.sam_2d import Sam2D
from lib.infers.steps import MOST_STEPS, Steps
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.prompts import PromptError
from lib.transforms.request import REQUEST, SegmentRequest, ViewerPrompts
from support.segment_requests import viewer_request

A, B, C, D = [130, 90], [120, 100], [100, 70], [200, 150]


def asked(client: str | None = "ann", image: str = "ct", **params: Any) -> SegmentRequest:
    request: SegmentRequest = viewer_request(image, client=client, **params)[REQUEST]
    return request


def left(steps: Steps, request: SegmentRequest) -> list[list[float]]:
    prompts = steps.undone(request).prompts
    assert isinstance(prompts, ViewerPrompts)
    return [*map(list, prompts.foreground), *map(list, prompts.background)]


def test_a_step_before_is_the_latest_that_these_prompts_extend():
    steps = Steps()
    line = {"points": [[1, 1], [9, 9]], "positive": False}
    for points in ([A], [A, B], [A, C], [A, C, B], [D]):
        steps.remember(asked(foreground=points))
    steps.remember(asked(foreground=[A, C, B], scribbles=[line]))
    now = {"foreground": [A, C, B], "scribbles": [line]}
    assert [left(steps, asked(**now, undo=n)) for n in range(4)] == [[A, C, B], [A, C, B], [A, C], [A]]
    assert left(steps, asked(foreground=[A, C, B], background=[[1, 1]], undo=1)) == [A, C, B], "not asked before"


def test_there_is_no_step_before_the_first_nor_of_another_client_image_object_or_region():
    steps = Steps()
    for n in range(1, 3):
        steps.remember(asked(foreground=[A, B][:n]))
    with pytest.raises(PromptError, match="undo can be at most 1 here"):
        steps.undone(asked(foreground=[A, B], undo=2))
    for other in ({"client": "bob"}, {"client": None}, {"image": "mr"}, {"label": "x"}, {"roi": [0, 9, 0, 9, 0, 0]}):
        with pytest.raises(PromptError, match="undo can be at most 0 here"):
            steps.undone(asked(foreground=[A, B], undo=1, **other))


def test_so_many_steps_are_known():
    steps = Steps()
    points = [[n, 0] for n in range(MOST_STEPS + 10)]
    for n in range(1, len(points) + 1):
        steps.remember(asked(foreground=points[:n]))
    assert left(steps, asked(foreground=points, undo=MOST_STEPS - 1)) == points[: len(points) - MOST_STEPS + 1]
    with pytest.raises(PromptError, match=f"at most {MOST_STEPS - 1} here"):
        steps.undone(asked(foreground=points, undo=MOST_STEPS))


def test_undo_is_for_a_client_s_own_prompts():
    with pytest.raises(PromptError, match="undo is for a client's own prompts"):
        asked(prompts="labels", undo=1)
    with pytest.raises(PromptError, match="undo must be a whole number"):
        asked(foreground=[A], undo=-1)


def test_what_is_undone_by_option_or_by_leaving_the_click_out_is_what_was_shown(disc, tmp_path):
    task = Sam2D("sam_tiny", Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu"), Limits())
    image = tmp_path / "disc.png"
    Image.fromarray(disc[0]).save(image)

    def mask(client: str | None = "ann", **params: Any) -> np.ndarray:
        path, _ = task(viewer_request(str(image), client=client, result_extension=".nrrd", **params))
        labels = nrrd.read(path)[0]
        Path(path).unlink()
        return labels

    clicks = [{"foreground": [A]}, {"foreground": [A], "background": [C]}, {"foreground": [A, B], "background": [C]}]
    shown = [mask(**click) for click in clicks]
    assert not np.array_equal(shown[1], mask(client=None, **clicks[1])), "the second click refined the first's mask"
    for n, before in enumerate(shown[::-1]):
        assert np.array_equal(mask(**clicks[2], undo=n), before), n
    for click, before in zip(clicks, shown, strict=True):
        assert np.array_equal(mask(**click), before), "undone by leaving it out, and done again"
