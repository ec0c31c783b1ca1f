"""``scripts/bench``: its arithmetic against figures worked out by hand, its report, and one row for real."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import encoder_rows, report
from bench.catalogue import ROWS, UnknownRowError, chosen
from bench.figures import Sample, pair_ratios, percentile
from bench.first_version import full_volume_answer
from bench.flops import VIT_B, VIT_H, MatrixMultiply, encoder_flop
from bench.mixed_requests import ManyImage, Outcome, requests_of
from bench.row import Bar, Measurement, NotAvailableError, Row
from bench.runner import main, run, run_all
from bench.server import Answer, server_timing
from bench.workplace import Workplace

REPOSITORY = Path(__file__).resolve().parents[2]
LAUNCHER = REPOSITORY / "benchmarks" / "run.py"


def a_row(measure, *bars: Bar, id: str = "some") -> Row:
    return Row(id, "a title", "a peer", bars, measure)


def test_percentiles_are_those_of_numpy():
    values = list(np.random.default_rng(1).normal(size=37))
    for percent in (0, 1, 50, 95, 99, 100):
        assert percentile(values, percent) == pytest.approx(np.percentile(values, percent))
    assert percentile([3.0], 99) == 3
    with pytest.raises(ValueError, match="at least one value"):
        percentile([], 50)
    with pytest.raises(ValueError, match="nothing was measured of it"):
        Sample.of("it", [])


def test_the_ratio_is_the_median_of_pairs_not_the_ratio_of_medians():
    ours, peer = [1.0, 2.0, 30.0], [10.0, 4.0, 40.0]
    ratio = pair_ratios(ours, peer)
    assert ratio.values == (0.1, 0.5, 0.75) and ratio.median == 0.5
    assert ratio.median != statistics.median(ours) / statistics.median(peer)
    with pytest.raises(ValueError, match="shorter"):
        pair_ratios(ours, peer[:2])


def test_the_encoder_is_972_gflop():
    assert encoder_flop(VIT_B) == pytest.approx(972e9, rel=0.01)
    assert encoder_flop(VIT_H) > 5 * encoder_flop(VIT_B)


@pytest.mark.slow
def test_the_shapes_are_those_of_the_real_encoder():
    """PyTorch's own counter, on the module itself without data; it leaves out nothing but what the formula does."""
    import torch
    from segment_anything import sam_model_registry
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        encoder = sam_model_registry["vit_b"]().image_encoder
        counter = FlopCounterMode(display=False)
        with counter:
            encoder(torch.empty(1, 3, 1024, 1024))
    assert counter.get_total_flops() == pytest.approx(encoder_flop(VIT_B), rel=0.01)


def test_the_rate_of_multiplication_is_of_both_libraries():
    rates = MatrixMultiply({"small": [(64, 64, 64)]}).rates(1)
    assert set(rates) == {"torch, small", "numpy, small"} and min(rates.values()) > 1e6


def test_a_bar_is_met_up_to_its_limit_and_says_by_how_much_it_is_missed():
    at_most, at_least = Bar("p50", 60, "ms"), Bar("throughput", 1, "x", at_least=True)
    assert at_most.check(60).is_met and at_least.check(1).is_met
    assert at_most.check(75).missed_by == 15 and not at_most.check(75).is_met
    assert at_least.check(0.75).missed_by == 0.25 and not at_least.check(0.75).is_met


def test_server_timing_is_read_as_the_standard_writes_it():
    assert server_timing('read;dur=1.5, encode;desc="a b";dur=20, hit, read;dur=2') == {
        "read": 3.5,
        "encode": 20,
        "hit": 0,
    }
    assert server_timing("") == {}


@pytest.mark.slow
def test_each_row_ends_in_its_own_way_and_none_stops_the_others(tmp_path, capsys):
    def fails(workplace):
        raise RuntimeError("broken")

    def is_missing(workplace):
        raise NotAvailableError("no such option", Measurement(ours=[Sample.of("half", [3])]))

    def of(value: float):
        return lambda workplace: Measurement(ours=[Sample.of("ours", [value, value])], values={"p50": value})

    bar = Bar("p50", 60, "ms")
    rows = [
        a_row(fails, bar, id="fails"),
        a_row(is_missing, bar, id="is-missing"),
        a_row(of(50), bar, id="met"),
        a_row(of(61), bar, id="missed"),
        a_row(of(61), id="informs"),
        a_row(of(61), Bar("never measured", 1, "x"), id="wrong"),
    ]
    file = tmp_path / "deep" / "figures.json"
    assert run_all(rows, quick=False, json_file=file) == 1
    written = json.loads(file.read_text())
    assert written["format"] == report.FORMAT and written["quick"] is False
    assert {"cpu", "cores", "isa", "load_average", "memory_gib", "gpu"} <= set(written["machine"])
    assert {"python", "torch", "numpy", "commit"} <= set(written["versions"])
    states = {row["id"]: row["status"] for row in written["rows"]}
    assert states == {
        "fails": "failed",
        "is-missing": "not available",
        "met": "met",
        "missed": "missed",
        "informs": "measured",
        "wrong": "failed",
    }
    by_id = {row["id"]: row for row in written["rows"]}
    assert by_id["fails"]["reason"] == "RuntimeError: broken"
    assert by_id["is-missing"]["ours"][0]["median"] == 3
    assert by_id["missed"]["bars"] == [
        {
            "value": "p50",
            "measured": 61,
            "bound": "at most",
            "limit": 60,
            "unit": "ms",
            "met": False,
            "missed_by": 1,
        }
    ]
    said = capsys.readouterr().out
    assert "missed: missed: p50 61 ms <= 60 ms: missed by 1 ms" in said
    assert run_all(rows[1:5], quick=False, json_file=file) == 0, "a missed bar is no failure"
    assert run(rows[3], Workplace(tmp_path, quick=True)).status == "measured", "a quick run claims nothing"


def test_what_rows_share_is_made_once(tmp_path):
    workplace, made = Workplace(tmp_path, wanted={"start"}), []
    assert [workplace.once("it", lambda: made.append(1) or len(made)) for _ in range(3)] == [1, 1, 1]


def test_a_row_that_cannot_begin_does_not_keep_its_neighbour_from_the_shared_measurement(tmp_path, monkeypatch):
    def broken(folder):
        raise NotAvailableError("no such precision")

    workplace = Workplace(tmp_path, wanted={"first-prompt-int8"})
    monkeypatch.setattr(workplace, "model_folder", lambda *models: tmp_path)
    monkeypatch.setitem(encoder_rows._PREDICTORS, "first-prompt-int8", broken)
    result = run(ROWS["first-prompt-int8"], workplace)
    assert (result.status, result.reason) == ("not available", "no such precision")
    measured = encoder_rows.FirstPrompts({"first-prompt": [1.0, 4.0]}, [10.0, 10.0], {})
    other = Workplace(tmp_path)
    other.once("first prompts", lambda: measured)
    result = run(ROWS["first-prompt"], other)
    assert result.measurement.ratio.values == (0.1, 0.4) and result.status == "met"


def test_all_samples_come_with_their_spread():
    facts = Sample.of("it", [3, 1, 2]).as_dict()
    assert facts == {"name": "it", "unit": "ms", "n": 3, "median": 2, "min": 1, "max": 3}
    assert Sample.of("it", range(100)).as_dict()["p99"] == pytest.approx(98.01)


def test_rows_are_listed_and_chosen_by_name(capsys):
    assert main(["--list"]) == 0
    listed = capsys.readouterr().out
    for row in ROWS.values():
        assert f"{row.id:24s}{row.title}" in listed and row.peer in listed
    assert "p50 <= 60 ms" in listed and "throughput >= 1.300 x" in listed
    assert [row.id for row in chosen(["start", "first-prompt"])] == ["first-prompt", "start"]
    assert len(chosen([])) == len(ROWS) == 23
    with pytest.raises(UnknownRowError, match="no row 'nothing'; the rows are: first-prompt"):
        chosen(["nothing"])
    assert main(["--only", "nothing"]) == 2


def test_the_first_version_wrote_the_whole_volume(tmp_path):
    labels = np.zeros((20, 30), np.uint8)
    labels[3:9, 5:21] = 1
    answer = Answer(0, full_volume_answer(labels, 2, 4, tmp_path / "answer.nrrd"), {})
    assert answer.labels.shape == (30, 20, 4)
    assert np.array_equal(answer.labels[..., 2].T, labels) and not answer.labels[..., [0, 1, 3]].any()


def test_a_client_sends_the_same_requests_each_time_and_other_ones_than_its_neighbour():
    images = [ManyImage(f"image-{number}", b"") for number in range(4)]

    def some(number: int) -> list:
        return [request for request, _ in zip(requests_of(number, images), range(200), strict=False)]

    assert some(3) == some(3) and [r.content for r in some(3)] != [r.content for r in some(4)]
    kinds = {request.kind for request in some(3)}
    assert kinds == {"infer points", "infer box", "REST points", "REST box", "REST two objects"}
    assert {request.content["label"] for request in some(3) if request.kind == "infer points"} == {"organ", "lesion"}


def test_answers_are_the_same_only_in_all_labels_and_scores():
    from bench.server import png

    mask = np.zeros((8, 8), np.uint8)
    other = mask.copy()
    other[3, 3] = 1

    def outcome(pixels: np.ndarray, score: float) -> Outcome:
        return Outcome(json.dumps({"scores": [score]}).encode(), png(pixels), "image/png")

    assert outcome(mask, 0.5).is_same(outcome(mask, 0.5))
    assert not outcome(mask, 0.5).is_same(outcome(other, 0.5))
    assert not outcome(mask, 0.5).is_same(outcome(mask, 0.5001))


@pytest.mark.slow
def test_one_row_for_real(tmp_path):
    file = tmp_path / "figures.json"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "apps" / "sam_app")}
    command = [sys.executable, str(LAUNCHER), "--quick", "--only", "decoders", "--json", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    [row] = json.loads(file.read_text())["rows"]
    assert row["id"] == "decoders" and row["status"] == "measured"
    assert row["ours"][0]["n"] == 10 and 0 < row["ours"][0]["median"] < row["ours"][0]["max"]
    assert {bar["value"] for bar in row["bars"]} == {"overhead"}
    assert "decoders" in done.stdout and "written to" in done.stdout
