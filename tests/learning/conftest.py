"""A model folder of its own, and pictures of discs that something can be learned from in seconds."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from lib.learning.examples import Example
from lib.sam.models.checkpoints import MODEL_FOLDER


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A copy of the app's model folder, in which versions can be made."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(MODEL_FOLDER / "sam_tiny.safetensors", folder)
    if (MODEL_FOLDER / "openvino").is_dir():
        for made in (MODEL_FOLDER / "openvino").glob("sam_tiny-*"):
            shutil.copytree(made, folder / "openvino" / made.name)
    return folder


def disc_picture(seed: int, side: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy picture ``(side, side, 3)`` of a bright disc and a dark one, and the bright one's mask."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    radius = rng.uniform(0.1, 0.16) * side
    bright = rng.uniform(0.3, 0.7, 2) * side
    mask = np.hypot(x - bright[0], y - bright[1]) < radius
    dark = (bright + side / 2) % side
    grey = np.full((side, side), 100.0)
    grey[np.hypot(x - dark[0], y - dark[1]) < radius] = 40
    grey[mask] = 190
    grey += rng.normal(0, 8, grey.shape)
    return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, 2), mask


@pytest.fixture
def discs() -> list[Example]:
    """Pictures of eight studies with the bright disc labelled, and of two without one."""
    examples = []
    for seed in range(8):
        picture, mask = disc_picture(seed)
        examples.append(Example(f"study {seed}", picture, {"disc": mask}))
    for seed in (20, 21):
        picture, mask = disc_picture(seed)
        picture[mask] = 100
        examples.append(Example(f"study {seed}", picture, {"disc": np.zeros_like(mask)}))
    return examples
