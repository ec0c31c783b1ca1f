"""Scribbles, lassos and masks as prompts of the REST route, on the real server with the bundled model."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest

from support.phantoms import BALL_AFFINE, ball_volume
from support.rest import dice, picture, png

pytestmark = pytest.mark.server

REST = Path(__file__).resolve().parents[2] / "docs" / "rest.md"


def post(server, content: bytes | None, mask: bytes | None = None, **sam_input):
    files = {name: (name, part) for name, part in (("file", content), ("mask", mask)) if part is not None}
    return server.post("/segment_input_image/", files=files, data={"sam_input": json.dumps(sam_input)})


def segment(server, content: bytes | None, mask: bytes | None = None, **sam_input) -> tuple[float, dict]:
    answer = post(server, content, mask, **sam_input)
    assert answer.status_code == 200, answer.text
    return answer.json()["timestamp"], json.loads(answer.headers["SAM-Result"])


def mask_of(server, timestamp: float, number: int | None = None) -> np.ndarray:
    which = "" if number is None else f"&object={number}"
    found: np.ndarray = picture(server.get(f"/get_segmented_image/{timestamp}?view=mask{which}"))
    return found


def points(*places: tuple[float, float]) -> list[dict[str, float]]:
    return [{"x": x, "y": y} for x, y in places]


def ring(x: float, y: float, radius: float) -> list[dict[str, float]]:
    """A hand-drawn outline around (x, y), that ends where it has been already."""
    turns = np.linspace(0, 2.2 * np.pi, 40)
    return points(*zip(x + radius * np.cos(turns), y + radius * np.sin(turns), strict=True))


@pytest.fixture(scope="module")
def two_discs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two bright discs, and the mask of each."""
    rows, columns = np.mgrid[:200, :240]
    left = (columns - 65) ** 2 + (rows - 100) ** 2 <= 35**2
    right = (columns - 170) ** 2 + (rows - 100) ** 2 <= 45**2
    noise = np.random.default_rng(0).normal(0, 4, left.shape)
    return np.clip(np.where(left | right, 180, 70) + noise, 0, 255).astype(np.uint8), left, right


def test_a_lasso_or_a_scribble_finds_what_it_is_drawn_around_or_on(server, two_discs):
    image, left, _ = two_discs
    for drawn in (
        {"lassos": [{"points": ring(65, 100, 42)}]},
        {"scribbles": [{"points": points((45, 90), (65, 105), (85, 95)), "width": 5}]},
    ):
        timestamp, facts = segment(server, png(image), **drawn)
        assert len(facts["scores"]) == 1
        assert dice(mask_of(server, timestamp) == 1, left) > 0.85, drawn


def test_two_lassos_are_two_objects_and_a_negative_one_is_cut_out_of_both(server, two_discs):
    image, left, right = two_discs
    stripe = {"points": points((0, 90), (239, 90), (239, 110), (0, 110)), "positive": False}
    lassos = [{"points": ring(65, 100, 42)}, {"points": ring(170, 100, 52)}, stripe]
    timestamp, facts = segment(server, png(image), lassos=lassos)
    assert len(facts["scores"]) == 2
    for number, disc in ((1, left), (2, right)):
        found = mask_of(server, timestamp, number) > 0
        assert not found[90:110].any()
        assert dice(found, disc & (np.arange(200) // 10 != 9)[:, None] & (np.arange(200) // 10 != 10)[:, None]) > 0.8


def test_drawings_are_stored_refined_and_audited(server, two_discs):
    image, left, right = two_discs
    first, _ = segment(server, png(image), lassos=[{"points": ring(65, 100, 42)}])
    same, _ = segment(server, None, refine=first)
    assert np.array_equal(mask_of(server, first), mask_of(server, same))
    stripe = {"points": points((0, 90), (239, 90), (239, 110), (0, 110)), "positive": False}
    second, _ = segment(server, None, refine=same, lassos=[stripe])
    assert not mask_of(server, second)[90:110].any() and dice(mask_of(server, second) == 1, left) > 0.5
    again, _ = segment(server, None, refine=second)
    assert np.array_equal(mask_of(server, second), mask_of(server, again)), "nobody touched it"
    third, facts = segment(server, None, refine=second, lassos=[{"points": ring(170, 100, 52)}])
    assert len(facts["scores"]) == 2
    assert np.array_equal(mask_of(server, third, 1) > 0, mask_of(server, second) == 1), "nobody touched the left one"
    assert dice(mask_of(server, third, 2) > 0, right) > 0.6

    effective = json.loads((server.results / f"{third:.6f}" / "manifest.json").read_text())["effective"]
    assert [lasso["positive"] for lasso in effective["lassos"]] == [True, False, True]
    positive, _ = segment(server, None, refine=second, lassos=[{**stripe, "positive": True}])
    effective = json.loads((server.results / f"{positive:.6f}" / "manifest.json").read_text())["effective"]
    assert [lasso["positive"] for lasso in effective["lassos"]] == [True, True], "the new request says which it is"
    audited = [json.loads(line) for line in server.audit.read_text().splitlines()]
    counts = next(entry["prompts"] for entry in audited if entry.get("timestamp") == f"{third:.6f}")
    assert counts == {"rectangles": 0, "positive_points": 0, "negative_points": 0, "lassos": 3}


@pytest.mark.parametrize(
    ("sam_input", "message"),
    [
        (
            {"scribbles": [{"points": points((300, 5), (400, 5))}]},
            "begins at (300, 5) is outside the image of 240 x 200",
        ),
        ({"lassos": [{"points": points((0, 300), (9, 300), (9, 320))}]}, "encloses no pixel of the image"),
        ({"lassos": [{"points": points((1, 1), (9, 9), (1, 9)), "colour": 1}]}, "there is no 'colour' here"),
        ({"scribbles": [{"points": points((5, 5)), "positive": False}]}, "nothing marks the object"),
    ],
)
def test_a_drawing_that_cannot_be_meant_is_refused(server, two_discs, sam_input, message):
    answer = post(server, png(two_discs[0]), **sam_input)
    assert answer.status_code == 422 and message in str(answer.json()["detail"])


def spilled(left: np.ndarray) -> np.ndarray:
    """A mask of the left disc that lacks its upper third and has a piece beside it."""
    wrong = left.copy()
    wrong[:88] = False
    wrong[150:170, 90:120] = True
    return wrong


def test_a_mask_is_refined_as_an_area_without_other_prompts(server, two_discs):
    image, left, _ = two_discs
    rough = (np.arange(240) > 34)[None, :] & (np.arange(240) < 98)[None, :]
    rough = rough & ((np.arange(200) > 70) & (np.arange(200) < 132))[:, None]
    timestamp, facts = segment(server, png(image), png(np.where(rough, 255, 0).astype(np.uint8)))
    found = mask_of(server, timestamp) == 1
    assert len(facts["scores"]) == 1 and dice(found, left) > 0.85 and dice(found, left) > dice(rough, left)


def test_points_correct_a_mask_where_they_are_and_refining_goes_on_from_it(server, two_discs):
    image, left, _ = two_discs
    wrong = spilled(left)
    piece = np.zeros_like(left)
    piece[150:170, 90:120] = True
    sent = png(wrong.astype(np.uint8))
    first, _ = segment(server, png(image), sent, negative_points=points((105, 160)))
    found = mask_of(server, first) == 1
    assert not (found & piece).any(), "what was clicked on is gone"
    assert np.array_equal(found[88:], (wrong & ~piece)[88:]), "and nothing else"
    same, _ = segment(server, None, refine=first)
    assert np.array_equal(mask_of(server, same) == 1, found)
    second, _ = segment(server, None, refine=first, positive_points=points((65, 80)))
    assert dice(mask_of(server, second) == 1, left) > 0.9
    third, _ = segment(server, None, start=second, negative_points=points((5, 5)))
    assert np.array_equal(mask_of(server, third), mask_of(server, second)), "the point is not on it"
    cut = {"points": points((0, 100), (239, 100), (239, 199), (0, 199)), "positive": False}
    fourth, _ = segment(server, None, start=second, lassos=[cut])
    assert not mask_of(server, fourth)[100:].any()
    kept = mask_of(server, second).copy()
    kept[100:] = 0
    assert dice(mask_of(server, fourth) == 1, kept == 1) > 0.9


def test_points_correct_what_the_model_made_of_a_mask(server, two_discs):
    image, left, _ = two_discs
    first, _ = segment(server, png(image), png(left.astype(np.uint8)))
    made = mask_of(server, first)
    again, _ = segment(server, None, refine=first)
    assert np.array_equal(mask_of(server, again), made)
    second, _ = segment(server, None, refine=first, negative_points=points((5, 5)))
    assert np.array_equal(mask_of(server, second), made), "the point is not on it"


def test_a_mask_of_a_volume_lies_on_its_voxels_and_may_be_a_picture_of_the_frame(server):
    volume = (server.studies / "ball.nii.gz").read_bytes()
    _, truth = ball_volume()
    truth = truth.astype(np.uint8)
    nifti = nibabel.Nifti1Image(truth, BALL_AFFINE).to_bytes()
    flipped = nibabel.Nifti1Image(truth[::-1], BALL_AFFINE @ turned(len(truth))).to_bytes()
    beside = {"frame": 7, "negative_points": points((2, 2))}
    for mask in (nifti, flipped, png(np.ascontiguousarray(truth[..., 7].T))):
        timestamp, facts = segment(server, volume, mask, **beside)
        assert facts["slice"] == 7 and np.array_equal(mask_of(server, timestamp), truth[..., 7].T)
    moved = nibabel.Nifti1Image(truth, BALL_AFFINE @ np.diag([1, 1, 2, 1])).to_bytes()
    answer = post(server, volume, moved, **beside)
    assert answer.status_code == 422 and "do not lie on the voxels" in answer.json()["detail"]
    empty = {**beside, "frame": 0}
    assert "nothing on slice 0" in post(server, volume, nifti, **empty).json()["detail"]
    assert "there is no frame 99" in post(server, volume, nifti, **{**beside, "frame": 99}).json()["detail"]


def turned(count: int) -> np.ndarray:
    """Voxels in reverse order along the first axis, as voxels."""
    back = np.diag([-1.0, 1, 1, 1])
    back[0, 3] = count - 1
    return back


def test_a_mask_is_accepted_to_be_worked_on_later(server, two_discs):
    image, left, _ = two_discs
    files = {"file": ("a", png(image)), "mask": ("b", png(left.astype(np.uint8)))}
    data = {"sam_input": json.dumps({"negative_points": points((5, 5))})}
    answer = server.post("/segment_input_image/", files=files, data=data, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    timestamp = answer.json()["timestamp"]
    deadline = time.monotonic() + 60
    while server.get(f"/get_segmented_image/{timestamp}?view=mask").status_code == 202:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert np.array_equal(mask_of(server, timestamp) == 1, left)
    audited = [json.loads(line) for line in server.audit.read_text().splitlines()]
    counts = [entry["prompts"] for entry in audited if entry.get("timestamp") == f"{timestamp:.6f}"]
    assert {"rectangles": 0, "positive_points": 0, "negative_points": 1, "start": 1} in counts


def test_a_mask_that_is_not_of_one_object_on_the_image_is_refused(server, two_discs):
    image, left, right = two_discs
    one, two = png(left.astype(np.uint8)), png((left + 2 * right).astype(np.uint8))
    result, _ = segment(server, png(image), one)
    several, _ = segment(server, png(image), lassos=[{"points": ring(65, 100, 42)}, {"points": ring(170, 100, 52)}])
    box = {"rectangles": [{"startX": 1, "startY": 1, "width": 9, "height": 9}]}
    for status, message, files, sam_input in (
        (
            422,
            "do not lie on the voxels of the image (240 x 200 x 1)",
            (png(image), png(left[:-1].astype(np.uint8))),
            {},
        ),
        (422, "the values 1, 2 on slice 0", (png(image), two), {}),
        (422, "nothing on slice 0", (png(image), png(np.zeros_like(image))), {}),
        (422, "not colours", (png(image), png(np.repeat(image[..., None], 3, axis=2))), {}),
        (415, "found:", (png(image), b"no image"), {}),
        (415, "empty", (png(image), b""), {}),
        (422, "leave rectangles and positive lassos out", (png(image), one), box),
        (422, "not both", (None, one), {"refine": result}),
        (422, "not both", (None, one), {"start": result}),
        (422, "not both", (None, None), {"start": result, "refine": result}),
        (422, "there is no image", (None, one), {}),
        (422, "has 2 objects", (None, None), {"start": several}),
        (422, "is not that of the result", (png(image[:-1]), None), {"start": result}),
        (422, "there is no candidate 1", (None, None), {"start": result, "candidate": 1}),
        (422, "is of frame 0: leave the frame out", (None, None), {"start": result, "frame": 1}),
        (404, "there is no result 1.5", (None, None), {"start": 1.5}),
    ):
        answer = post(server, *files, **sam_input)
        assert answer.status_code == status and message in answer.json()["detail"], (message, answer.text)


def test_what_is_protected_is_cut_out_of_every_mask_and_candidate(server, two_discs):
    image, left, right = two_discs
    there = np.where(left & (np.arange(240) < 65), 3, 0).astype(np.uint8) + np.where(right, 9, 0).astype(np.uint8)
    asked = {"lassos": [{"points": ring(65, 100, 42)}], "multimask": True}
    files = {"file": ("a", png(image)), "protect": ("b", png(there))}
    answer = server.post("/segment_input_image/", files=files, data={"sam_input": json.dumps(asked)})
    assert answer.status_code == 200, answer.text
    timestamp = answer.json()["timestamp"]
    free, _ = segment(server, png(image), **asked)
    for candidate in range(3):
        view = f"?view=mask&candidate={candidate}"
        kept, whole = (picture(server.get(f"/get_segmented_image/{one}{view}")) for one in (timestamp, free))
        assert np.array_equal(kept > 0, (whole > 0) & (there == 0))
    assert (whole > 0)[there > 0].any()
    refined, _ = segment(server, None, refine=timestamp, positive_points=points((80, 100)))
    assert not mask_of(server, refined)[there > 0].any() and mask_of(server, refined).any()
    wrong = {**files, "protect": ("b", png(there[1:]))}
    answer = server.post("/segment_input_image/", files=wrong, data={"sam_input": json.dumps(asked)})
    assert answer.status_code == 422 and "do not lie on the voxels" in answer.json()["detail"]


def examples() -> list[dict]:
    """The ``sam_input`` with drawings in the documentation."""
    blocks = re.findall(r"```json\n(.*?)```", REST.read_text(encoding="utf-8"), re.DOTALL)
    return [json.loads(block) for block in blocks]


def test_the_documented_example_finds_both_discs(server, two_discs):
    image, left, right = two_discs
    [example] = examples()
    timestamp, facts = segment(server, png(image), **example)
    assert len(facts["scores"]) == 2
    assert dice(mask_of(server, timestamp, 1) > 0, left) > 0.85 and dice(mask_of(server, timestamp, 2) > 0, right) > 0.8
