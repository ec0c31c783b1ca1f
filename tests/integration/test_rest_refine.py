"""Going on from an earlier result, and choosing among its candidates."""

from __future__ import annotations

import io
import json

import numpy as np
import pydicom
import pytest

from support.rest import DISC, dice, picture, png

pytestmark = pytest.mark.server


def segment(server, content: bytes | None, **sam_input) -> tuple[float, dict]:
    files = {} if content is None else {"file": ("image", content)}
    answer = server.post("/segment_input_image/", files=files, data={"sam_input": json.dumps(sam_input)})
    assert answer.status_code == 200, answer.text
    return answer.json()["timestamp"], json.loads(answer.headers["SAM-Result"])


def refused(server, content: bytes | None, status: int, **sam_input) -> str:
    files = {} if content is None else {"file": ("image", content)}
    answer = server.post("/segment_input_image/", files=files, data={"sam_input": json.dumps(sam_input)})
    assert answer.status_code == status, answer.text
    return answer.json()["detail"]


def mask(server, timestamp: float, candidate: int = 0) -> np.ndarray:
    return picture(server.get(f"/get_segmented_image/{timestamp}?view=mask&candidate={candidate}"))


@pytest.fixture
def two_discs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two bright discs that a thin bridge joins, and the mask of each."""
    rows, columns = np.mgrid[:200, :240]
    left = (columns - 70) ** 2 + (rows - 100) ** 2 <= 35**2
    right = (columns - 170) ** 2 + (rows - 100) ** 2 <= 35**2
    bridge = (abs(rows - 100) < 12) & (columns > 70) & (columns < 170)
    noise = np.random.default_rng(0).normal(0, 4, left.shape)
    return np.clip(np.where(left | right | bridge, 180, 70) + noise, 0, 255).astype(np.uint8), left, right


def test_more_points_without_the_file_change_the_mask_and_keep_the_image(server, two_discs):
    image, _, _ = two_discs
    first, _ = segment(server, png(image), positive_points=[{"x": 70, "y": 100}])
    second, facts = segment(server, None, refine=first, positive_points=[{"x": 170, "y": 100}])
    third, _ = segment(server, None, refine=second, negative_points=[{"x": 170, "y": 100}])
    assert second > first and third > second
    shown = picture(server.get(f"/get_segmented_image/{second}?view=image"))
    assert np.array_equal(shown[..., 0], image)
    both, without_right = mask(server, second), mask(server, third)
    assert both[100, 170] == 1 and both[100, 70] == 1, "both points hold, the earlier one without being sent again"
    assert without_right[100, 170] == 0 and without_right[100, 70] == 1

    manifest = json.loads((server.results / f"{second:.6f}" / "manifest.json").read_text())
    assert manifest["request"] == {"automatic": True, "refine": second - (second - first), "positive_points": [
        {"x": 170.0, "y": 100.0}
    ]}  # fmt: skip
    assert len(manifest["effective"]["positive_points"]) == 2 and facts["model"] == "sam_tiny"
    last = json.loads((server.results / f"{third:.6f}" / "manifest.json").read_text())["effective"]
    assert [len(last[kind]) for kind in ("positive_points", "negative_points")] == [1, 1]


def test_the_earlier_mask_is_a_prompt(server, two_discs):
    """The same prompts all at once and one after the other are not the same question."""
    image, left, _ = two_discs
    points = [{"x": 60, "y": 90}, {"x": 80, "y": 115}]
    at_once, _ = segment(server, png(image), positive_points=points)
    first, _ = segment(server, png(image), positive_points=points[:1])
    refined, _ = segment(server, None, refine=first, positive_points=points)
    assert not np.array_equal(mask(server, at_once), mask(server, refined))
    assert dice(mask(server, refined) == 1, left) > 0.5


def test_what_is_not_extended_stays_as_it_was(server, two_discs):
    image, _, _ = two_discs
    boxes = [
        {"startX": 33, "startY": 62, "width": 74, "height": 76},
        {"startX": 133, "startY": 62, "width": 74, "height": 76},
    ]
    first, _ = segment(server, png(image), rectangles=boxes)
    same, _ = segment(server, None, refine=first)
    assert np.array_equal(mask(server, first), mask(server, same))
    second, facts = segment(server, None, refine=first, positive_points=[{"x": 70, "y": 100}, {"x": 60, "y": 80}])
    assert len(facts["scores"]) == 2
    assert np.array_equal(mask(server, first) == 2, mask(server, second) == 2), "nobody touched the right one"
    assert not np.array_equal(mask(server, first) == 1, mask(server, second) == 1)


def test_an_image_can_be_sent_ahead_of_its_prompts(server, disc):
    image, truth = disc
    base, facts = segment(server, png(image), automatic=False)
    assert facts["scores"] == [] and not mask(server, base).any()
    seg = pydicom.dcmread(io.BytesIO(server.get(f"/get_dicom_image/{base}?type=seg").content))
    assert not seg.pixel_array.any()
    box = json.loads(DISC)["rectangles"]
    refined, _ = segment(server, None, refine=base, rectangles=box)
    alone, _ = segment(server, png(image), rectangles=box)
    assert np.array_equal(mask(server, refined), mask(server, alone)) and dice(mask(server, alone) == 1, truth) > 0.85


def test_what_a_refinement_leaves_open_is_as_before_and_another_frame_has_its_own_prompts(server):
    path = server.studies / "ball.nii.gz"
    first, facts = segment(
        server,
        path.read_bytes(),
        frame=7,
        window={"center": 250, "width": 500},
        label="ball",
        positive_points=[{"x": 30, "y": 24}],
    )
    assert facts["slice"] == 7 and facts["slice_source"] == "request"
    second, facts = segment(server, None, refine=first, negative_points=[{"x": 2, "y": 2}])
    assert facts["slice"] == 7 and facts["window"] == {"center": 250.0, "width": 500.0, "source": "request"}
    seg = pydicom.dcmread(io.BytesIO(server.get(f"/get_dicom_image/{second}?type=seg").content))
    assert seg.SegmentSequence[0].SegmentLabel == "ball"
    third, facts = segment(server, None, refine=second, frame=5, positive_points=[{"x": 30, "y": 25}])
    effective = json.loads((server.results / f"{third:.6f}" / "manifest.json").read_text())["effective"]
    assert facts["slice"] == 5 and effective["positive_points"] == [{"x": 30.0, "y": 25.0}]
    assert not effective.get("negative_points")


def test_without_a_frame_the_answer_says_that_it_is_the_middle_one(server):
    content = (server.studies / "ball.nii.gz").read_bytes()
    _, facts = segment(server, content, positive_points=[{"x": 30, "y": 24}])
    assert (facts["slice"], facts["slice_source"], facts["frames"]) == (8, "middle", 16)


def test_all_three_candidates_can_be_had_best_first(server, disc):
    image, _ = disc
    timestamp, facts = segment(server, png(image), positive_points=[{"x": 130, "y": 90}], multimask=True)
    assert facts["candidates"] == 3 and facts["candidate_scores"][0] == sorted(facts["candidate_scores"][0])[::-1]
    assert facts["scores"] == [facts["candidate_scores"][0][0]]
    masks = [mask(server, timestamp, candidate) for candidate in range(3)]
    assert len({found.tobytes() for found in masks}) == 3
    plain = picture(server.get(f"/get_segmented_image/{timestamp}?view=image"))
    for candidate in range(3):
        overlay = picture(server.get(f"/get_segmented_image/{timestamp}?candidate={candidate}"))
        assert np.array_equal((overlay != plain).any(axis=2), masks[candidate] == 1)
        seg = server.get(f"/get_dicom_image/{timestamp}?type=seg&candidate={candidate}")
        pixels = pydicom.dcmread(io.BytesIO(seg.content)).pixel_array.reshape(masks[0].shape)
        assert np.array_equal(pixels, masks[candidate] == 1)
        capture = server.get(f"/get_dicom_image/{timestamp}?candidate={candidate}")
        assert np.array_equal(pydicom.dcmread(io.BytesIO(capture.content)).pixel_array, overlay)
    assert server.get(f"/get_segmented_image/{timestamp}?candidate=3").status_code == 422


def test_a_refinement_goes_on_from_the_candidate_that_was_chosen(server, disc):
    image, _ = disc
    timestamp, _ = segment(server, png(image), positive_points=[{"x": 130, "y": 90}], multimask=True)
    kept, _ = segment(server, None, refine=timestamp, candidate=2)
    assert np.array_equal(mask(server, kept), mask(server, timestamp, 2))
    point = [{"x": 140, "y": 90}]
    from_best, from_third = (
        segment(server, None, refine=timestamp, positive_points=point, candidate=chosen)[0] for chosen in (0, 2)
    )
    assert not np.array_equal(mask(server, from_best), mask(server, from_third))


def test_one_candidate_is_all_there_is_unless_three_were_asked_for(server, disc):
    timestamp, facts = segment(server, png(disc[0]), **json.loads(DISC))
    assert facts["candidates"] == 1
    answer = server.get(f"/get_segmented_image/{timestamp}?candidate=1")
    assert answer.status_code == 404 and "this result has 1" in answer.json()["detail"]


def test_refining_needs_something_to_go_on_from(server, disc):
    image, _ = disc
    timestamp, _ = segment(server, png(image), **json.loads(DISC))
    assert "there is no image" in refused(server, None, 422)
    assert "there is no result 1.5" in refused(server, None, 404, refine=1.5)
    assert "not that of the result" in refused(server, png(image[:50]), 422, refine=timestamp)
    assert "there is no candidate 2" in refused(server, None, 422, refine=timestamp, candidate=2)
    assert "candidate is for refining" in refused(server, png(image), 422, candidate=1)
    again, _ = segment(server, png(image), refine=timestamp)  # the same file may be sent along
    assert np.array_equal(mask(server, again), mask(server, timestamp))
    for wrong in ("../etc", [1], True, -1, 1e300):
        refused(server, None, 422, refine=wrong)
