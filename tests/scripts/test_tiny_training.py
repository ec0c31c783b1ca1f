"""Training of ``sam_tiny``: scenes, prompts, loss, and a run that can be stopped and resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from held_out import place_of
from lib.learning import loss, simulated_user
from lib.sam.models import tiny as sam_tiny
from tiny import batches, card, scenes, sources
from tiny.evaluate import score_folder, summary
from tiny.export import export
from tiny.train import Settings, Trainer
from tiny.warm_start import blend, spread, warm_start

SMALL = sam_tiny.TinyConfig(
    img_size=256, widths=(8, 8, 8, 8, 8), semantic=8, fine=2, token_dim=16, decoder_widths=(8, 8, 8), upscaled=8
)
SETTINGS = Settings(steps=4, images=3, carried=1, prompts=2, report=1, check=2, check_scenes=1)


@pytest.fixture(scope="module")
def few_scenes(tmp_path_factory) -> scenes.Scenes:
    folder = tmp_path_factory.mktemp("scenes")
    return scenes.load_scenes(scenes.make_scenes(folder, seed=9, count=6, size=256, workers=1))


def a_run(folder: Path, few_scenes: scenes.Scenes, **options) -> Trainer:
    return Trainer(folder, SETTINGS, few_scenes, few_scenes, device=torch.device("cpu"), config=SMALL, **options)


def test_scenes_are_reproducible_and_valid(few_scenes):
    image, _, masks = scenes.make_scene(9, 0, 256)
    assert np.array_equal(image, few_scenes.images[0])
    assert np.array_equal(masks, few_scenes.object_masks(0, np.arange(len(masks))))
    for scene in range(len(few_scenes)):
        height, width = few_scenes.sizes[scene]
        count = few_scenes.starts[scene + 1] - few_scenes.starts[scene]
        masks = few_scenes.object_masks(scene, np.arange(count))
        assert 2 <= count <= scenes.MAX_OBJECTS
        assert masks.any((1, 2)).all()
        assert not masks[:, height:].any() and not masks[:, :, width:].any()


def test_prompts_mark_the_object():
    rng = np.random.default_rng(0)
    mask = np.zeros((256, 256), bool)
    mask[40:90, 100:120] = True
    assert simulated_user.tight_box(mask).tolist() == [100, 40, 120, 90]
    x, y = simulated_user.centre_point(mask)
    assert 108 <= x <= 111 and 49 <= y <= 80
    for _ in range(50):
        prompt = simulated_user.first_prompt(rng, mask)
        assert np.isfinite(prompt.box).all() or (prompt.labels == 1).any()
        for (column, row), label in zip(prompt.coords, prompt.labels, strict=True):
            assert label < 0 or mask[int(row), int(column)] == bool(label)
    answer = np.zeros_like(mask)
    answer[40:60, 100:120] = True
    corrected = simulated_user.correct(rng, simulated_user.Prompt.empty(), mask, answer, 1.0)
    column, row = corrected.coords[0].astype(int)
    assert corrected.labels[0] == 1 and mask[row, column] and not answer[row, column]
    assert simulated_user.correct(rng, corrected, mask, mask, 1.0).labels.tolist() == corrected.labels.tolist()


def test_shifted_boxes_keep_their_size_and_stay_within_bounds():
    rng = np.random.default_rng(0)
    mask = np.zeros((256, 256), bool)
    mask[40:90, 100:106] = True
    shifts = np.array([simulated_user.shifted_box(rng, mask, 5) for _ in range(200)]) - simulated_user.tight_box(mask)
    assert np.allclose(shifts[:, :2], shifts[:, 2:], atol=1e-4)
    assert 2.5 < np.abs(shifts).max() <= 3, "at most half the shorter side"


def test_zooming_keeps_masks_on_their_objects():
    rng = np.random.default_rng(1)
    masks = np.zeros((2, 256, 256), bool)
    masks[0, 60:130, 50:120] = True
    masks[1, 3:7, 3:7] = True
    image = np.where(masks[0], 200, np.where(masks[1], 120, 30)).astype(np.uint8)
    image[200:] = 0
    sides = set()
    for _ in range(40):
        zoomed, (height, width), moved, pixel = sources.zoom(rng, image, (200, 256), masks)
        sides.add(round(pixel, 3))
        assert max(height, width) == 256 and pixel >= 1
        assert not zoomed[height:].any() and not moved[:, height:].any() and not moved[:, :, width:].any()
        for mask in moved:
            assert mask.sum() >= 16 and min(abs(zoomed[mask].mean() - value) for value in (200, 120)) < 45
    assert len(sides) > 5


def a_picture(name: str = "a", side: int = 90) -> sources.Picture:
    """A reddish disc of radius 20 and a blue square of 12 pixels on grey."""
    rows, columns = np.mgrid[:side, : side + 50]
    disc = np.hypot(columns - 60, rows - 40) < 20
    square = (abs(columns - 20) < 6) & (abs(rows - 70) < 6)
    image = np.full((*disc.shape, 3), 90, np.uint8)
    image[disc], image[square] = (220, 60, 60), (40, 40, 230)
    return sources.Picture(name, image, np.stack([disc, square]))


def test_real_pictures_are_shown_whole_and_cut_around_an_object_with_masks_on_their_objects():
    rng = np.random.default_rng(2)
    source = sources.RealSource([a_picture()], 256)
    covered = []
    for _ in range(60):
        drawn = source.draw(rng, 3)
        height, width = drawn.size
        assert drawn.image.shape == (3, 256, 256) and max(height, width) == 256 and drawn.masks.shape == (3, 256, 256)
        assert not drawn.image[:, height:].any() and not drawn.masks[:, :, width:].any()
        for mask in drawn.masks:
            red, _, blue = drawn.image[:, mask].mean(1)
            assert np.hypot(red - 220, blue - 60) < 30 or np.hypot(red - 40, blue - 230) < 30
        covered.append(drawn.masks.any(0).sum() / (height * width))
    assert min(covered) < 0.12 and max(covered) > 0.4


def test_pictures_of_other_patients_are_held_out(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for number in range(40):
        picture = a_picture()
        Image.fromarray(picture.image).save(tmp_path / "images" / f"n{number}.png")
        for index, mask in enumerate(picture.masks):
            Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "masks" / f"n{number}_thing_{index}.png")
    learned, held_out = sources.read_pictures(tmp_path)
    assert len(learned) + len(held_out) == 40 and 1 <= len(held_out) <= 12
    assert not {each.name for each in learned} & {each.name for each in held_out}
    assert np.array_equal(held_out[0].masks, a_picture().masks)
    assert place_of("mr_t1_sarcoma", "STS-002-MR-T1-z014") == ("STS-002", 14)
    assert place_of("mr_t1_sarcoma", "other") is None


def test_a_batch_holds_scenes_and_pictures_in_their_shares(few_scenes):
    both = [sources.SyntheticSource(few_scenes), sources.RealSource([a_picture()], 256)]
    rng = np.random.default_rng(4)
    for shares, is_coloured in (((1.0, 0.0), False), ((0.0, 1.0), True)):
        batch = batches.draw_batch(rng, both, shares, images=12, prompts=2, mean=96.0, std=64.0)
        assert batch.images.shape == (12, 3, 256, 256) and batch.targets.shape == (12, 2, 256, 256)
        channels = batch.images
        spread_of_colour = (channels.amax(1) - channels.amin(1)).amax((1, 2))
        assert (spread_of_colour > 0.5).sum() >= 6 if is_coloured else (spread_of_colour < 1e-5).sum() >= 9


def test_a_run_begins_where_another_network_of_a_smaller_input_ended(tmp_path):
    torch.manual_seed(0)
    small = sam_tiny.SamTiny(SMALL).eval()
    export(small, tmp_path / "small.safetensors")
    large = sam_tiny.SamTiny(replace(SMALL, img_size=512)).eval()
    assert warm_start(large, tmp_path / "small.safetensors") == []
    x = torch.nn.functional.interpolate(torch.randn(1, 3, 32, 32), size=(256, 256), mode="bilinear")
    with torch.inference_mode():
        expected = small.image_encoder(x)
        found = large.image_encoder(x.repeat_interleave(2, 2).repeat_interleave(2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="cannot be spread"):
        spread(torch.zeros(8, 6 * 16, 3, 3), 6 * 4)


def test_blending_keeps_a_part_of_each_weight_of_either_model(tmp_path):
    earlier, later = sam_tiny.SamTiny(SMALL), sam_tiny.SamTiny(SMALL)
    export(earlier, tmp_path / "earlier.safetensors")
    expected = {name: value.half().float() * 0.75 for name, value in earlier.state_dict().items()}
    expected = {name: value + later.state_dict()[name] * 0.25 for name, value in expected.items()}
    blend(later, tmp_path / "earlier.safetensors", 0.25)
    for name, value in later.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-5)


def test_loss_is_least_for_the_right_mask():
    target = torch.zeros(1, 256, 256, dtype=torch.bool)
    target[:, 10:30, 20:40] = True
    weights = loss.near_weights(target)
    assert weights[0, 20, 30] > 2 * weights[0, 200, 5]
    right = torch.where(target, 16.0, -16.0)[:, None]
    both = torch.cat([right, -right], 1)
    values, iou = loss.mask_loss(both, target.float()[:, None], weights[:, None])
    assert values[0, 0] < 0.01 < values[0, 1]
    assert iou[0].tolist() == [1.0, 0.0]


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, few_scenes):
    real = {"discs": ([a_picture("a")], [a_picture("b")])}
    whole = a_run(tmp_path / "whole", few_scenes, real=real)
    whole.run()
    a_run(tmp_path / "parts", few_scenes, real=real).run(stop_after=2)
    parts = a_run(tmp_path / "parts", few_scenes, real=real)
    assert parts.step == 2
    parts.run()
    assert parts.step == whole.step == 4
    for name, tensor in whole.averaged.state_dict().items():
        torch.testing.assert_close(parts.averaged.state_dict()[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    lines = card.read_log(tmp_path / "whole" / "log.jsonl")
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)
    assert any("held_out" in line and line["discs"]["objects"] == 2 for line in lines)
    card.plot(lines, tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1350, 440)


def test_the_export_is_read_strictly_and_rounds_to_half_precision(tmp_path, few_scenes):
    run = a_run(tmp_path / "run", few_scenes)
    run.run(stop_after=1)
    model = sam_tiny.SamTiny(SMALL)
    exported = load_file(tmp_path / "run" / "sam_tiny.safetensors")
    model.load_state_dict({name: value.to(model.state_dict()[name].dtype) for name, value in exported.items()})
    for name, tensor in run.averaged.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.half().float() if tensor.is_floating_point() else tensor)


def test_a_folder_is_evaluated_at_its_own_resolution(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    rows, columns = np.mgrid[0:90, 0:140]
    mask = (columns - 70) ** 2 / 900 + (rows - 40) ** 2 / 400 <= 1
    Image.fromarray(np.where(mask, 200, 50).astype(np.uint8)).save(tmp_path / "images" / "a.png")
    Image.fromarray(mask.astype(np.uint8) * 255).save(tmp_path / "masks" / "a_blob_0.png")
    torch.manual_seed(0)
    scores = score_folder(sam_tiny.SamTiny(SMALL).eval(), tmp_path)
    result = summary(scores)
    assert result["objects"] == 1 and scores[0].name == "a 0"
    assert 0 <= result["box"] <= 1 and len(scores[0].rated) == 5
    facts = dict.fromkeys(("img_size", "embed_dim", "scenes", "seed", "steps", "images", "prompts", "seen"), 1)
    facts |= {"parameters": 1.0, "bytes": 1.0, "minutes": 1.0, "command": "c", "machine": "m", "remark": "r"}
    facts |= {"begun": "b", "curves": "c.png"}
    line = {"row": "tight box", "dice": {"mean": 0.9, "low": 0.8, "high": 1.0}, "iou": {"mean": 0.82}}
    line["score_correlation"] = None
    facts["learned_from"] = {"mr_t1_sarcoma": 7}
    given = {"held_out": result, "results": [line], "name": "Blobs"}
    card.write_card(tmp_path / "card.md", facts=dict(facts), real={"mr_t1_sarcoma": result}, **given)
    text = (tmp_path / "card.md").read_text()
    assert "CC BY 3.0 | 7 |" in text and f"CC BY 3.0 | 1 | {result['box']:.3f} |" in text
    card.write_card(tmp_path / "card.md", facts={**facts, "learned_from": {}}, real={}, **given)
    text = (tmp_path / "card.md").read_text()
    assert "synthetic images alone" in text
    assert "On 1 objects" in text and "| tight box | 0.900 (0.800-1.000) | 0.820 |" in text


def test_help():
    repository = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository / "apps" / "sam_app")}
    call = [sys.executable, str(repository / "scripts" / "train_tiny.py"), "--help"]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=environment)
    assert "--work" in done.stdout
    assert not done.stderr
