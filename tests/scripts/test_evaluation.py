"""``scripts/evaluate``: figures against ones worked out by hand, users, layouts, and the whole on phantoms."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from evaluation import baselines, protocols, report
from evaluation.cases import Case, CaseError, find_cases
from evaluation.figures import Figures, compare, correlation, mean_with_interval
from evaluation.main import main
from evaluation.report import Result
from evaluation.users import (
    box_around,
    centre_click,
    corrective_click,
    jittered_box,
    random_click,
)
from lib.imaging.dicom.data_sets import to_bytes
from lib.imaging.labels.segmentation import segmentation
from lib.sam.models.registry import MODELS

pytestmark = pytest.mark.filterwarnings("ignore:.*always_return_as_numpy.*:FutureWarning")


def square(side: int = 10, at: int = 20, size: int = 60) -> np.ndarray:
    mask = np.zeros((size, size + 20), bool)
    mask[at : at + side, at : at + side] = True
    return mask


def a_case(truth: np.ndarray, name: str = "case") -> Case:
    frame = np.repeat(np.where(truth, 190, 70).astype(np.uint8)[..., None], 3, axis=2)
    return Case(name, "square", Path("x.png"), 0, frame, truth, None)


def test_figures_are_those_of_the_definitions():
    truth, shifted = square(10, 20), np.roll(square(10, 20), 5, axis=1)
    figures = compare(shifted, truth, tolerance=1, spacing=None)
    assert figures.dice == pytest.approx(2 * 50 / 200) and figures.iou == pytest.approx(50 / 150)
    assert compare(truth, truth, tolerance=0, spacing=None) == Figures(1, 1, 1)
    assert compare(shifted, truth, tolerance=5, spacing=None).nsd == pytest.approx(1)
    assert compare(shifted, truth, tolerance=5, spacing=(3.0, 3.0)).nsd < 1, "the tolerance is in millimetres"
    assert 0 < compare(shifted, truth, tolerance=1, spacing=None).nsd < 1
    assert compare(np.zeros_like(truth), truth, tolerance=1, spacing=None) == Figures(0, 0, 0)


def test_the_interval_holds_the_mean_and_narrows_with_more_objects():
    rng = np.random.default_rng(0)
    few, many = rng.normal(0.8, 0.1, 10), rng.normal(0.8, 0.1, 1000)
    for values in (few, many):
        mean, low, high = mean_with_interval(list(values))
        assert low < mean < high and mean == pytest.approx(values.mean())
    assert np.ptp(mean_with_interval(list(many))[1:]) < np.ptp(mean_with_interval(list(few))[1:])
    assert mean_with_interval([0.5]) == (0.5, 0.5, 0.5)
    assert mean_with_interval(list(few)) == mean_with_interval(list(few))


def test_correlation():
    assert correlation([0.1, 0.2, 0.3], [1.0, 2.0, 3.0]) == pytest.approx(1)
    assert correlation([0.1, 0.1, 0.1], [1.0, 2.0, 3.0]) is None


def test_boxes_run_along_pixel_edges_and_are_shifted_within_bounds():
    truth = square(10, 20)
    assert box_around(truth).tolist() == [20, 20, 30, 30]
    shifts = {tuple(jittered_box(truth, np.random.default_rng(n)) - box_around(truth)) for n in range(300)}
    assert {x for x, *_ in shifts} == set(range(-5, 6)) and all((a, b) == (c, d) for a, b, c, d in shifts)
    tiny = square(4, 20)
    assert max(abs(jittered_box(tiny, np.random.default_rng(n)) - box_around(tiny)).max() for n in range(100)) == 2


def test_points_lie_on_the_object_and_corrections_in_the_largest_error():
    ring = square(21, 10) & ~square(9, 16)
    x, y, label = centre_click(ring)
    assert ring[int(y), int(x)] and label == 1
    assert all(ring[int(y), int(x)] for x, y, _ in (random_click(ring, np.random.default_rng(n)) for n in range(50)))
    truth = square(20, 20)
    missed = truth.copy()
    missed[20:25] = False
    assert corrective_click(missed, truth)[2] == 1 and 20 <= corrective_click(missed, truth)[1] < 25
    leaked = truth.copy()
    leaked[40:50, 20:40] = True
    leaked[20:22, 20:40] = False
    x, y, label = corrective_click(leaked, truth)
    assert label == 0 and leaked[int(y), int(x)] and not truth[int(y), int(x)]
    assert corrective_click(truth, truth) is None


def test_baselines():
    truth = square(20, 20)
    box = box_around(truth)
    assert np.array_equal(baselines.filled_box(truth.shape, box), truth)
    assert baselines.ellipse_in_box(truth.shape, box).sum() == pytest.approx(np.pi * 100, rel=0.05)
    case = a_case(truth)
    loose = np.array([10.0, 10.0, 50.0, 50.0])
    assert np.array_equal(baselines.otsu_in_box(case.frame, loose), truth)
    assert np.array_equal(baselines.otsu_in_box(255 - case.frame, loose), truth), "dark objects, too"
    flat = np.full_like(case.frame, 9)
    assert np.array_equal(baselines.otsu_in_box(flat, loose), baselines.filled_box(truth.shape, loose))


class _Perfect:
    """Answers with the truth from the third click on; before that with half of it."""

    def __init__(self, truth: np.ndarray) -> None:
        self.truth = truth
        self.asked: list[tuple] = []

    def ask(self, box, clicks):
        self.asked.append((box, list(clicks)))
        mask = self.truth.copy()
        if len(clicks) < 3:
            mask[:, : mask.shape[1] // 2 - 10] = False
        return mask, 0.5

    def ask_nothing(self):
        return [np.zeros_like(self.truth), self.truth]


def test_clicks_go_on_until_nothing_is_wrong():
    truth = square(20, 20)
    user = _Perfect(truth)
    answers = list(protocols.clicks_from_point(a_case(truth), user, protocols.chances(a_case(truth), 0)))
    assert [row for row, _, _ in answers] == [f"clicks {n}" for n in range(1, 9)]
    assert [len(clicks) for _, clicks in user.asked] == [1, 2, 3], "nobody clicks where nothing is wrong"
    results = [
        Result(a_case(truth), row, compare(mask, truth, tolerance=1, spacing=None), mask, score)
        for row, mask, score in answers
    ]
    assert report.clicks_needed(results)[0] == {"row": "clicks: NoC@85", "mean": 3.0, "never": 0, "objects": 1}
    assert [line["row"] for line in report.summary(results)] == ["clicks 1", "clicks 3", "clicks 5", "clicks 8"]


def test_a_box_is_there_before_its_clicks():
    truth = square(20, 20)
    user = _Perfect(truth)
    list(protocols.clicks_from_box(a_case(truth), user, protocols.chances(a_case(truth), 0)))
    assert [len(clicks) for _, clicks in user.asked] == [0, 1, 2, 3]
    assert all(box.tolist() == box_around(truth).tolist() for box, _ in user.asked)


def test_automatic_takes_the_best_match():
    truth = square(20, 20)
    [(row, mask, score)] = protocols.automatic(a_case(truth), _Perfect(truth), protocols.chances(a_case(truth), 0))
    assert row == "automatic, best match" and np.array_equal(mask, truth) and score is None


def test_calibration_is_that_of_all_answers_of_the_model():
    truth = square()
    answers = [("tight box", 0.9, 0.8), ("tight box", 0.5, 0.4), ("centre point", 0.1, 0.3), ("clicks 2", 0.0, 1.0)]
    packed = np.packbits(truth)
    results = [Result(a_case(truth), row, Figures(0, iou, 0), packed, score) for row, iou, score in answers] + [
        Result(a_case(truth), "tight box: filled", Figures(0, 0.7, 0), packed)
    ]
    known = report.calibration(results)
    assert known["answers"] == 3, "neither what needs no model nor the counts that are not shown"
    assert known["correlation"] == pytest.approx(np.corrcoef([0.8, 0.4, 0.3], [0.9, 0.5, 0.1])[0, 1], abs=1e-3)
    assert known["mean_error"] == pytest.approx(0.4 / 3, abs=1e-3)
    assert "r(IoU) " in report.as_text(results, "2 px")
    assert report.calibration(results[-1:]) is None


def test_every_model_meets_the_same_chances():
    case, other = a_case(square()), a_case(square(), "other")
    draws = [
        protocols.chances(which, seed).integers(1 << 30)
        for which, seed in ((case, 0), (case, 0), (case, 1), (other, 0))
    ]
    assert draws[0] == draws[1] and len(set(draws)) == 3


@pytest.fixture
def png_folder(tmp_path, disc) -> Path:
    image, mask = disc
    (tmp_path / "png" / "images").mkdir(parents=True)
    (tmp_path / "png" / "masks").mkdir()
    Image.fromarray(image).save(tmp_path / "png" / "images" / "one.png")
    Image.fromarray((mask * 255).astype(np.uint8)).save(tmp_path / "png" / "masks" / "one_left_disc_000.png")
    return tmp_path / "png"


def test_png_pairs(png_folder, disc):
    [case] = find_cases(png_folder)
    assert (case.name, case.label, case.spacing) == ("one_left_disc_000", "left_disc", None)
    assert np.array_equal(case.truth, disc[1]) and np.array_equal(case.frame, disc[0])


def test_nifti_pairs_give_the_largest_slice_of_each_label(tmp_path):
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    labels = np.zeros((40, 30, 5), np.uint8)
    labels[5:15, 5:15, 1], labels[5:25, 5:15, 3], labels[30:36, 20:26, 2] = 1, 1, 2
    affine = np.diag([0.5, 2.0, 3.0, 1])
    nibabel.Nifti1Image(labels, affine).to_filename(tmp_path / "labels" / "a.nii.gz")
    nibabel.Nifti1Image((labels * 100).astype(np.int16), affine).to_filename(tmp_path / "images" / "a.nii.gz")
    (tmp_path / "labels.json").write_text('{"1": "liver"}')
    cases = find_cases(tmp_path)
    assert [(case.name, case.label, case.frame_index) for case in cases] == [("a liver", "liver", 3), ("a 2", "2", 2)]
    assert cases[0].truth.sum() == 200 and cases[0].spacing == (2.0, 0.5)


def test_a_dicom_series_with_its_segmentation(tmp_path, sample):
    study = tmp_path / "study"
    study.mkdir()
    source = pydicom.dcmread(sample("CT_small.dcm"))
    labels = np.zeros((128, 128), np.uint8)
    labels[30:60, 40:90] = 1
    made = segmentation(
        labels,
        source=source,
        frame=0,
        segment_labels=["liver"],
        algorithm_name="a",
        algorithm_version="1",
        instance_time=datetime(2026, 1, 1),
    )
    (study / "image.dcm").write_bytes(sample("CT_small.dcm").read_bytes())
    (study / "seg.dcm").write_bytes(to_bytes(made))
    [case] = find_cases(tmp_path)
    assert case.label == "liver" and np.array_equal(case.truth, labels > 0) and case.file.name == "image.dcm"
    assert case.spacing is not None and case.spacing[0] == pytest.approx(source.PixelSpacing[0])


def test_a_folder_of_something_else_is_refused_with_what_would_be_right(tmp_path, capsys):
    with pytest.raises(CaseError, match=r"masks/NAME_LABEL_NUMBER.png"):
        find_cases(tmp_path)
    assert main([str(tmp_path)]) == 2 and "holds no cases" in capsys.readouterr().err
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main([str(tmp_path), "--protocols", "guess"]) == 2


@pytest.mark.slow
def test_the_whole_through_the_engine(png_folder, tmp_path, capsys):
    arguments = [str(png_folder), "--protocols", "box,point,clicks,scribble,lasso,start", "--pictures", "1"]
    for name in ("first", "second"):
        assert main([*arguments, "--out", str(tmp_path / name)]) == 0
    printed = capsys.readouterr().out
    assert "tight box: ellipse" in printed and "NoC@85" in printed and "left_disc" in printed
    first, second = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("first", "second"))
    assert first == second, "the same prompts, the same answers"
    dice = {line["row"]: line["dice"]["mean"] for line in first["summary"]}
    assert dice["tight box"] > dice["tight box: filled"] and dice["tight box: Otsu"] > 0.9
    assert dice["scribble"] > 0.9 and dice["lasso"] > dice["lasso: enclosed"]
    assert dice["eroded mask, 1 click"] > dice["eroded mask"]
    manifest = json.loads((tmp_path / "first" / "manifest.json").read_text())
    assert manifest["model"] == "sam_tiny" and len(manifest["checkpoint_sha256"]) == 64
    assert manifest["data"]["objects"] == 1 and len(manifest["data"]["images"]["one.png"]) == 64
    picture = np.asarray(Image.open(tmp_path / "first" / "pictures" / "tight-box-worst.png"))
    assert picture.shape == (320, 320, 3) and len(np.unique(picture.reshape(-1, 3), axis=0)) > 10


@pytest.mark.slow
def test_a_model_is_asked_only_with_prompts_that_it_takes(png_folder, monkeypatch, capsys):
    boxes_alone = {"sam_tiny": replace(MODELS["sam_tiny"], prompts=("box",))}
    monkeypatch.setattr("lib.sam.models.model_specs.MODELS", boxes_alone)
    assert main([str(png_folder)]) == 0
    shown = capsys.readouterr()
    said = "scripts/evaluate: sam_tiny takes box alone: point, random, clicks, box-clicks, scribble, start left out"
    assert said in shown.err.splitlines()
    assert "tight box" in shown.out and "jittered box" in shown.out and "centre point" not in shown.out
    assert main([str(png_folder), "--protocols", "point,automatic"]) == 2
    assert "sam_tiny takes box alone: point, automatic left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kinds", "kept"),
    [
        (("point",), ["point", "random", "clicks", "scribble", "automatic"]),
        (("point", "box"), list(protocols.PROTOCOLS)),
        (("box", "mask"), ["box", "jitter", "lasso"]),
    ],
)
def test_each_protocol_needs_its_kinds_of_prompts(kinds, kept):
    assert protocols.answerable(list(protocols.PROTOCOLS), kinds) == kept
