"""Training of the network that follows objects: stacks of slices, real images, and a run that can be resumed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from scipy import ndimage

from evaluation.cases import CaseError
from follow.main import main
from follow.measure import measure
from follow.real import read_set
from follow.stacks import LENGTH, MIN_CELLS, Slices, Stack, real_stack
from follow.train import Settings, Trainer, draw_stack, follow_loss
from held_out import NUMBERED
from lib.sam.volume.follow_net import SIDE, FollowNet
from lib.sam.volume.follower import Follower
from support.server_process import REPOSITORY

pytestmark = pytest.mark.slow

MIDDLE = LENGTH // 2


def a_picture(x: float, radius: float = 12) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.mgrid[:90, :110]
    mask = np.hypot(columns - x, rows - 40) < radius
    grey = np.clip(np.where(mask, 190, 70) + np.random.default_rng(1).normal(0, 4, mask.shape), 0, 255)
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2), mask


def stacks(count: int, real: list[Slices] | None = None) -> list[Stack]:
    rng = np.random.default_rng(3)
    return [draw_stack(rng, real or []) for _ in range(count)]


def test_a_synthetic_stack_is_an_object_that_can_be_followed_from_its_middle_slice():
    ended = 0
    for stack in stacks(30):
        assert stack.grey.shape == stack.truth.shape == (LENGTH, SIDE, SIDE)
        assert stack.grey.dtype == np.float32 and stack.grey.min() >= 0 and stack.grey.max() <= 1
        assert stack.truth[MIDDLE].sum() >= MIN_CELLS
        for k in range(MIDDLE + 1, LENGTH):
            pieces, count = ndimage.label(stack.truth[k])
            near = ndimage.binary_dilation(stack.truth[k - 1], iterations=4)
            assert set(np.unique(pieces[near])) >= set(range(1, count + 1)), "a piece that nothing leads to"
        ended += not stack.truth[-1].any()
    assert 0 < ended < 30, "some end and some do not"


def test_the_same_numbers_give_the_same_stacks():
    one, other = (draw_stack(np.random.default_rng(5), []) for _ in range(2))
    assert np.array_equal(one.grey, other.grey) and np.array_equal(one.truth, other.truth)


def test_neighbouring_slices_are_seen_in_their_order():
    """The object moves to the right from slice to slice, and so it does in the stack."""
    slices = [a_picture(30 + 7 * k) for k in range(5)]
    found = [real_stack(np.random.default_rng(seed), slices) for seed in range(12)]
    used = [each for each in found if each is not None]
    assert len(used) >= 6
    moved = []
    for stack in used:
        centres = [np.array(ndimage.center_of_mass(each)) for each in stack.truth if each.any()]
        moved.append(np.abs(centres[-1] - centres[0]).max())
    assert np.median(moved) > 5, "single images repeated would hardly move"


def test_what_cannot_be_seen_is_not_learned():
    flat = np.full((90, 110, 3), 100, np.uint8)
    _, mask = a_picture(50)
    assert all(real_stack(np.random.default_rng(seed), [(flat, mask)]) is None for seed in range(4))


def test_the_loss_is_least_for_the_right_answer_and_leaves_out_what_ended_before():
    truth = torch.zeros(3, SIDE, SIDE)
    truth[0, 40:60, 40:60] = truth[2, 40:60, 40:60] = 1
    logits = torch.where(truth > 0, 9.0, -9.0)
    right, dice = follow_loss(logits, torch.tensor([9.0, -9.0, 9.0]), truth, torch.ones(3))
    assert right < 0.02 and dice.tolist() == pytest.approx([1, 1, 1], abs=1e-3)
    absent, dice = follow_loss(logits, torch.tensor([-9.0, -9.0, 9.0]), truth, torch.ones(3))
    assert absent > right + 0.5 and dice[0] == pytest.approx(0, abs=1e-3)
    left_out, _ = follow_loss(logits, torch.tensor([-9.0, -9.0, 9.0]), truth, torch.tensor([0.0, 1.0, 1.0]))
    assert left_out == pytest.approx(float(right), abs=1e-3)


@pytest.mark.long
def test_a_run_is_resumed_where_it_was_and_learns(tmp_path):
    settings = Settings(steps=3, stacks=2, report=1, check=1)
    trainer = Trainer(tmp_path, settings, [[a_picture(50)]], workers=0)
    trainer.run()
    again = Trainer(tmp_path, settings, [[a_picture(50)]], workers=0)
    assert again.step == 3 and again.elapsed == trainer.elapsed
    for name, value in trainer.averaged.state_dict().items():
        assert torch.equal(value, again.averaged.state_dict()[name]), name
    fresh = FollowNet().state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in trainer.averaged.state_dict().items())
    assert {path.name for path in tmp_path.iterdir()} == {"state.pt", "follow.pt", "log.jsonl"}


def write_set(folder: Path, names: list[str]) -> Path:
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for name in names:
        image, mask = a_picture(50)
        Image.fromarray(image).save(folder / "images" / f"{name}.jpg")
        Image.fromarray(mask).save(folder / "masks" / f"{name}_thing_0.png")
    return folder


def test_neighbours_are_found_by_their_names_and_patients_are_not_divided(tmp_path):
    assert "mr_cardiac_sunnybrook" in NUMBERED
    names = [f"SC-HF-I-{patient:02d}-IM-0001-{number:04d}" for patient in range(40) for number in (8, 19, 28, 39, 108)]
    found = read_set(write_set(tmp_path / "mr_cardiac_sunnybrook", names))
    parts = [*found.train, *found.held_out]
    assert len(found.train) > 4 * len(found.held_out) > 0
    assert len(parts) == 3 * 40 and sum(map(len, parts)) == len(names)
    assert sorted({len(each) for each in parts}) == [1, 2], "of one phase, two slices side by side and one far away"


def test_a_set_without_numbers_is_of_single_images(tmp_path):
    found = read_set(write_set(tmp_path / "others", [f"n{number}" for number in range(30)]))
    assert {len(each) for each in (*found.train, *found.held_out)} == {1} and len(found.held_out) >= 1
    with pytest.raises(CaseError, match="no cases"):
        read_set(write_set(tmp_path / "none", []))


def test_held_out_slices_are_followed_from_the_largest_and_it_does_not_count():
    class Sees(Follower):
        def find(self, marked, before, here):
            found = super().find(marked, before, here)
            return type(found)(found.probability * 0 + (here.grey.numpy() > 0.5), 1.0, 1.0)

    slices = [a_picture(50, radius) for radius in (9, 11, 12, 10)]
    score = measure(Sees(FollowNet()), [slices, slices[:2]])
    assert score is not None and score.objects == 1, "two slices are too few"
    assert score.dice > 0.97 and score.reached == 1
    assert measure(Sees(FollowNet()), [slices[:2]]) is None


@pytest.mark.long
def test_the_command_writes_weights_and_card(tmp_path, monkeypatch):
    real = write_set(tmp_path / "mr_t1_sarcoma", [f"STS-{p:03d}-MR-T1-z{z:03d}" for p in range(9) for z in (4, 6, 8)])
    output = tmp_path / "follower.safetensors"
    arguments = ["--work", str(tmp_path / "work"), "--real", str(real), "--output", str(output), "--workers", "0"]
    monkeypatch.setattr("sys.argv", ["train_follower", *arguments, "--steps", "1", "--stacks", "2"])
    main()
    net = FollowNet()
    net.load_state_dict({name: value.float() for name, value in load_file(output).items()})
    card = output.with_suffix(".md").read_text()
    assert "train_follower --work WORK --real mr_t1_sarcoma --steps 1 --stacks 2" in card
    assert "CC BY 3.0" in card and str(tmp_path) not in card
    monkeypatch.setattr("sys.argv", ["train_follower", "--work", str(tmp_path / "x"), "--real", str(tmp_path / "work")])
    with pytest.raises(SystemExit, match="no cases"):
        main()


def test_help_needs_no_training():
    done = subprocess.run([REPOSITORY / "scripts" / "train_follower", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--finish" in done.stdout
