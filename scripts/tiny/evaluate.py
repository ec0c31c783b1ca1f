"""Measure a model: on held-out scenes, and on a folder of images with masks.

This serves to watch a run; what the finished model reaches is measured with ``scripts/evaluate``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from lib.learning.simulated_user import centre_point, largest_error, shifted_box
from lib.sam.models import tiny as sam_tiny
from lib.sam.packed_mask import tight_box

from .scenes import Scenes
from .shapes import Mask
from .sources import Picture, read_pictures

JITTER = 5.0
"""Pixels by which the jittered box is shifted at most."""


def dice(a: Mask, b: Mask) -> float:
    """Return the Dice coefficient of two masks."""
    return float(2 * (a & b).sum() / max(int(a.sum() + b.sum()), 1))


def iou(a: Mask, b: Mask) -> float:
    """Return the intersection over union of two masks."""
    return float((a & b).sum() / max(int((a | b).sum()), 1))


@dataclass(frozen=True)
class ObjectScore:
    """Dice of mask 0 for one object and several prompts.

    Attributes:
        name: Of the object.
        box: For the tight box.
        jitter: For the box, shifted by up to JITTER pixels.
        point: For the centre of the largest inscribed circle.
        clicks: For that point and two corrective clicks.
        box_clicks: For the tight box and five.
        rated: Predicted and true IoU of each of these answers.
    """

    name: str
    box: float
    jitter: float
    point: float
    clicks: float
    box_clicks: float
    rated: tuple[tuple[float, float], ...]


def prepare(model: sam_tiny.SamTiny, image: NDArray[np.uint8]) -> tuple[Tensor, tuple[int, int]]:
    """Return an image (H, W, 3), or (H, W) if grey, as model input (1, 3, S, S), and its scaled height and width."""
    height, width = image.shape[:2]
    scale = model.img_size / max(height, width)
    size = (int(height * scale + 0.5), int(width * scale + 0.5))
    x = torch.from_numpy(np.atleast_3d(image).astype(np.float32)).permute(2, 0, 1)[None]
    x = F.interpolate(x, size=size, mode="bilinear", align_corners=False, antialias=True)
    device = model.pixel_mean.device
    return model.preprocess(x.expand(-1, 3, -1, -1).to(device)), size


def restore(logits: Tensor, side: int, size: tuple[int, int], original: tuple[int, int]) -> Tensor:
    """Scale logits (B, n, 256, 256) to the original image as SAM does; the result is (B, n, H, W)."""
    logits = F.interpolate(logits, (side, side), mode="bilinear", align_corners=False)
    return F.interpolate(logits[..., : size[0], : size[1]], original, mode="bilinear", align_corners=False)


class Dialogue:
    """One object of an encoded image being segmented: the prompts so far, and the last answer.

    Args:
        model: In evaluation mode.
        embedding: (1, C, 64, 64).
        size: Height and width of the scaled image.
        mask: (H, W), the object, at the original size.
        box: XYXY, to begin with.
        click: XY on the object, to begin with.
    """

    def __init__(
        self,
        model: sam_tiny.SamTiny,
        embedding: Tensor,
        size: tuple[int, int],
        mask: Mask,
        *,
        box: NDArray[np.float32] | None = None,
        click: tuple[float, float] | None = None,
    ) -> None:
        self.model, self.embedding, self.size, self.mask, self.box = model, embedding, size, mask, box
        self.clicks: list[tuple[float, float, int]] = [] if click is None else [(*click, 1)]
        self.logits: Tensor | None = None
        self.ask()

    @torch.no_grad()
    def ask(self) -> None:
        """Set `answer`, its `predicted` IoU, and `logits`."""
        original = (self.mask.shape[0], self.mask.shape[1])
        device = self.embedding.device
        scale = torch.tensor([self.size[1] / original[1], self.size[0] / original[0]], device=device)
        boxes = None if self.box is None else torch.from_numpy(self.box).to(device)[None] * scale.repeat(2)
        points = None
        if self.clicks:
            clicks = torch.tensor(self.clicks, device=device)[None]
            points = ((clicks[..., :2] + 0.5) * scale - 0.5, clicks[..., 2].long())
        encoder, decoder = self.model.prompt_encoder, self.model.mask_decoder
        sparse, dense = encoder(points, boxes, self.logits)
        self.logits, quality = decoder(self.embedding, encoder.get_dense_pe(), sparse, dense, False)
        masks = restore(self.logits, self.model.img_size, self.size, original)
        self.answer: Mask = (masks[0, 0] > 0).cpu().numpy()
        self.predicted = float(quality[0, 0])

    def correct(self, times: int) -> None:
        """Click so often at the centre of the largest region that is wrong."""
        for _ in range(times):
            error = largest_error(self.mask, self.answer)
            if error is None:
                return
            self.clicks.append((*centre_point(error[0]), error[1]))
            self.ask()


def score_object(
    model: sam_tiny.SamTiny, embedding: Tensor, size: tuple[int, int], mask: Mask, name: str
) -> ObjectScore:
    """Prompt a model for one object of an encoded image and compare its answers with the mask."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    point = Dialogue(model, embedding, size, mask, click=centre_point(mask))
    box = Dialogue(model, embedding, size, mask, box=tight_box(mask))
    jitter = Dialogue(model, embedding, size, mask, box=shifted_box(rng, mask, JITTER))
    first = {"box": box.answer, "jitter": jitter.answer, "point": point.answer}
    rated = [(dialogue.predicted, iou(dialogue.answer, mask)) for dialogue in (box, jitter, point)]
    point.correct(2)
    box.correct(5)
    rated += [(dialogue.predicted, iou(dialogue.answer, mask)) for dialogue in (point, box)]
    return ObjectScore(
        name=name,
        **{key: dice(answer, mask) for key, answer in first.items()},
        clicks=dice(point.answer, mask),
        box_clicks=dice(box.answer, mask),
        rated=tuple(rated),
    )


def score_image(model: sam_tiny.SamTiny, image: NDArray[np.uint8], objects: dict[str, Mask]) -> list[ObjectScore]:
    """Score objects by name, each (H, W), of an image (H, W) or (H, W, 3)."""
    x, size = prepare(model, image)
    with torch.no_grad():
        embedding = model.image_encoder(x)
    return [score_object(model, embedding, size, mask, name) for name, mask in objects.items()]


def score_folder(model: sam_tiny.SamTiny, folder: Path) -> list[ObjectScore]:
    """Score every mask of a folder at the images' own resolution."""
    learned, held_out = read_pictures(folder)
    return score_pictures(model, [*learned, *held_out], objects=None)


def score_pictures(
    model: sam_tiny.SamTiny, pictures: Sequence[Picture], *, most: int | None = None, objects: int | None = 2
) -> list[ObjectScore]:
    """Score the first `objects` objects, or all, of about `most` of the pictures, or all, at their own resolution."""
    scores = []
    for picture in pictures[:: max(len(pictures) // most, 1) if most else 1]:
        named = {f"{picture.name} {number}": mask for number, mask in enumerate(picture.masks[:objects])}
        scores += score_image(model, picture.image, named)
    return scores


def score_scenes(model: sam_tiny.SamTiny, scenes: Scenes, *, count: int, objects: int = 2) -> list[ObjectScore]:
    """Score the first `objects` objects of the first `count` scenes."""
    scores = []
    for scene in range(min(count, len(scenes))):
        height, width = (int(extent) for extent in scenes.sizes[scene])
        number = min(objects, int(scenes.starts[scene + 1] - scenes.starts[scene]))
        masks = scenes.object_masks(scene, np.arange(number))[:, :height, :width]
        named = {f"scene {scene} object {index}": mask for index, mask in enumerate(masks)}
        scores += score_image(model, scenes.images[scene, :height, :width], named)
    return scores


def summary(scores: Sequence[ObjectScore]) -> dict[str, float]:
    """Return the means of the scores, and the correlation of predicted with true IoU over all answers."""
    result: dict[str, float] = {"objects": len(scores)}
    for name in ("box", "jitter", "point", "clicks", "box_clicks"):
        result[name] = round(float(np.mean([getattr(score, name) for score in scores])), 4)
    predicted, true = np.array([pair for score in scores for pair in score.rated]).T
    varied = np.ptp(predicted) > 0 and np.ptp(true) > 0
    result["rating"] = round(float(np.corrcoef(predicted, true)[0, 1]), 4) if varied else 0.0
    return result
