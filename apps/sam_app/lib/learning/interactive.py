"""A better answer to prompts: the mask decoder learns from accepted labels with simulated users."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lib.learning.encoded import Encoded
from lib.learning.examples import Mask, objects_of
from lib.learning.fitting import Effort, Progress, fit, unwatched
from lib.learning.loss import total_loss
from lib.learning.pupil import Pupil
from lib.learning.simulated_user import (
    Rng,
    centre_point,
    largest_error,
    loose_box,
    outside_point,
    random_point,
    stroke,
)
from lib.sam.packed_mask import PackedMask
from lib.sam.prompts import Prompts
from lib.sam.strokes import MOST_POINTS as SCRIBBLE_POINTS
from lib.sam.strokes import stroke_points

PICTURES, OBJECTS = 3, 4
"""Of a step: the objects of a picture have prompts of one form."""

OBJECTS_PER_LABEL = 12
"""The largest objects of a label in one picture, from which is drawn."""

CORRECTED_SHARE = 0.4
"""Of the pictures, those whose first answers get a corrective click before anything is learned from them."""

FORMS = {"box": 0.42, "point": 0.3, "points": 0.08, "both": 0.1, "scribble": 0.1}
"""What users mark an object with, and how often."""


PART = 0.7
"""How far a model goes from the published weights to the learned ones (Wortsman et al. 2022, arXiv:2109.01903)."""


def learn(pupil: Pupil, pictures: Sequence[Sequence[Encoded]], effort: Effort, progress: Progress = unwatched) -> int:
    """Teach a model's decoder by examples.

    The weights then go back a part of the way: few pictures teach their own chance, too.

    Args:
        pupil: Changed in place.
        pictures: The variants of each example.
        effort: How long.
        progress: Told after each step.

    Returns:
        The number of steps.

    Raises:
        ValueError: If there is no object in any of the examples.
    """
    rng = np.random.default_rng(effort.seed)
    taught = [[(seen, objects) for seen in variants if (objects := objects_in(seen))] for variants in pictures]
    taught = [variants for variants in taught if variants]
    if not taught:
        raise ValueError("there is no object in the examples")

    def loss() -> Tensor:
        losses = []
        for _ in range(PICTURES):
            variants = taught[rng.integers(len(taught))]
            seen, objects = variants[rng.integers(len(variants))]
            chosen = [np.asarray(objects[index]) for index in rng.permutation(len(objects))[:OBJECTS]]
            losses.append(_loss_of(pupil, seen, chosen, rng))
        return torch.stack(losses).mean()

    with pupil.learning() as parameters:
        published = [parameter.detach().clone() for parameter in parameters]
        steps = fit(parameters, loss, effort, progress)
        with torch.no_grad():
            for parameter, before in zip(parameters, published, strict=True):
                parameter.lerp_(before, 1 - PART)
    return steps


def _loss_of(pupil: Pupil, seen: Encoded, objects: Sequence[Mask], rng: Rng) -> Tensor:
    """Prompt for some objects of a picture, correct some of the answers, and return the loss of what is answered."""
    prompts = first_prompts(rng, objects, takes_points=pupil.predictor.spec.takes_points)
    if rng.random() < CORRECTED_SHARE and pupil.predictor.spec.takes_points:
        with torch.no_grad():
            logits, _ = pupil.answer(seen, prompts)
        prompts = corrected(rng, prompts, objects, pupil.masks(logits, seen), logits[:, 0].numpy())
    masks, quality = pupil.answer(seen, prompts)
    value, _ = total_loss(masks, quality, pupil.targets(seen, objects))
    return value


def objects_in(seen: Encoded) -> list[PackedMask]:
    """Return the objects of an example, label by label."""
    return [PackedMask.of(one) for label in seen.packed for one in objects_of(seen.mask(label), OBJECTS_PER_LABEL)]


def first_prompts(rng: Rng, objects: Sequence[Mask], *, takes_points: bool = True) -> list[Prompts]:
    """Return a user's first prompts for objects of a picture, all of one form."""
    form = rng.choice(list(FORMS), p=list(FORMS.values())) if takes_points else "box"
    clicks, with_background = int(rng.integers(1, 3)), rng.random() < 0.5 and not any(mask.all() for mask in objects)
    prompts = []
    for mask in objects:
        box, foreground, background = None, [], []
        if form in ("box", "both"):
            box = loose_box(rng, mask, 1.0)
        if form == "point":
            inner = 0.9 if rng.random() < 0.5 else rng.uniform(0, 0.7)
            foreground = [random_point(rng, mask, inner)]
        elif form in ("points", "both"):
            foreground = [random_point(rng, mask, rng.uniform(0, 0.6)) for _ in range(clicks)]
            background = [outside_point(rng, mask)] if with_background else []
        elif form == "scribble":
            points = stroke_points(stroke(rng, mask))[:, ::-1]
            foreground = points[np.arange(SCRIBBLE_POINTS) % len(points)].tolist()
        prompts.append(Prompts.from_clicks(foreground, background, box))  # type: ignore[arg-type]
    return prompts


def corrected(
    rng: Rng, prompts: Sequence[Prompts], objects: Sequence[Mask], answers: np.ndarray, logits: np.ndarray
) -> list[Prompts]:
    """Return prompts with a click where each answer is most wrong, and the answers' logits.

    Args:
        rng: Source of randomness.
        prompts: What was asked.
        objects: ``(H, W)`` each.
        answers: ``(B, H, W)`` bool.
        logits: ``(B, S, S)``, the answers'.
    """
    result = []
    for prompt, mask, answer, earlier in zip(prompts, objects, answers, logits, strict=True):
        error = largest_error(mask, answer)
        region, label = error if error else (mask, 1)
        click = centre_point(region) if rng.random() < 0.6 else random_point(rng, region, 0.4)
        points = [*prompt.points.tolist(), list(click)]
        result.append(Prompts(points, [*prompt.labels.tolist(), label], prompt.box, earlier))  # type: ignore[arg-type]
    return result
