"""The bundled model on real CT slices with organ masks, against what knows nothing of the image. Figures: ``-rA``."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import distance_transform_edt

from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER
from lib.sam.models.registry import MODELS
from lib.sam.prompts import Prompts


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def inscribed_ellipse(box: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    left, top, right, bottom = box
    rows, columns = np.mgrid[: shape[0], : shape[1]] + 0.5
    x = (columns - (left + right) / 2) / ((right - left) / 2)
    y = (rows - (top + bottom) / 2) / ((bottom - top) / 2)
    return x**2 + y**2 <= 1


@pytest.fixture(scope="module")
def organs(shared_data: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """``(H, W, 3)`` uint8 images, each with one organ's mask."""
    pairs = []
    for image_path in sorted((shared_data / "labelled_2d" / "images").glob("*.png")):
        image = np.asarray(Image.open(image_path).convert("RGB"))
        for mask_path in sorted((shared_data / "labelled_2d" / "masks").glob(f"{image_path.stem}_*.png")):
            pairs.append((image, np.asarray(Image.open(mask_path).convert("L")) > 0))
    assert len(pairs) == 30
    return pairs


def test_box_and_point_prompts(organs):
    predictor = Engine([MODELS["sam_tiny"]], MODEL_FOLDER, device="cpu").predictor("sam_tiny")
    scores: dict[str, list[float]] = {"box": [], "ellipse": [], "full box": [], "centre point": []}
    held = 0
    for image, truth in organs:
        rows, columns = np.nonzero(truth)
        box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        full = np.zeros_like(truth)
        full[box[1] : box[3], box[0] : box[2]] = True
        y, x = np.unravel_index(np.argmax(distance_transform_edt(np.pad(truth, 1))[1:-1, 1:-1]), truth.shape)
        embedding = predictor.encode(image)
        by_box, by_point = predictor.decode(embedding, [Prompts.from_clicks(box=box), Prompts.from_clicks([[x, y]])])
        scores["box"].append(dice(by_box.masks[0], truth))
        scores["ellipse"].append(dice(inscribed_ellipse(box, truth.shape), truth))
        scores["full box"].append(dice(full, truth))
        scores["centre point"].append(dice(by_point.masks[0], truth))
        held += bool(by_point.masks[0][y, x])
    means = {name: float(np.mean(values)) for name, values in scores.items()}
    print("mean Dice:", ", ".join(f"{name} {mean:.3f}" for name, mean in means.items()), f"; point held {held}/30")
    assert means["box"] >= 0.85 and means["box"] > means["ellipse"] > means["full box"]
    assert means["centre point"] >= 0.70
    assert held == 30
