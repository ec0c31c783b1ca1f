"""The questions: what a simulated user asks for each object, and what is measured of the answers.

Boxes: tight, and jittered by up to five pixels (SAM-Med2D, Cheng et al. 2023, arXiv:2308.16184). Points: one at the
centre of the largest inscribed circle, or any. Corrective clicks, with the answer's logits fed back, as SAM was trained
and tested (Kirillov et al. 2023, arXiv:2304.02643, appendices A and D); NoC, the number of clicks until the IoU is
reached, as in interactive segmentation (Sofiiuk et al. 2021, arXiv:2102.06583), here with at most eight clicks.
A scribble and a lasso as one draws them quickly (ScribblePrompt, Wong et al. 2023, arXiv:2312.07381). A mask that lacks
three pixels all around, and one click. Automatic: of all the objects that are found without a prompt, the one most like
the truth.

Each case draws its chances from its own name and one seed, so that every model meets the same prompts.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from evaluation import baselines
from evaluation.cases import Case
from evaluation.segmenters import Dialogue
from evaluation.users import (
    Click,
    box_around,
    centre_click,
    corrective_click,
    eroded,
    jittered_box,
    random_click,
)
from lib.learning.simulated_user import rough_outline, stroke
from tiny.evaluate import iou

CLICK_COUNTS = (1, 3, 5, 8)
"""After how many clicks the answer is measured."""

Measured = tuple[str, np.ndarray, float | None]
"""The row of the table that an answer belongs to, the mask, and its predicted IoU if a model gave it."""

Protocol = Callable[[Case, Dialogue, np.random.Generator], Iterator[Measured]]


def chances(case: Case, seed: int) -> np.random.Generator:
    """The case's own random numbers."""
    return np.random.default_rng([seed, zlib.crc32(case.name.encode())])


def tight_box(case: Case, dialogue: Dialogue, rng: np.random.Generator) -> Iterator[Measured]:
    """The tight box, and what the same box gives without a model."""
    box = box_around(case.truth)
    yield "tight box", *dialogue.ask(box, [])
    yield from _without_model("tight box", case, box)


def box_with_jitter(case: Case, dialogue: Dialogue, rng: np.random.Generator) -> Iterator[Measured]:
    """A box drawn by a hurried hand, likewise."""
    box = jittered_box(case.truth, rng)
    yield "jittered box", *dialogue.ask(box, [])
    yield from _without_model("jittered box", case, box)


def _without_model(row: str, case: Case, box: np.ndarray) -> Iterator[Measured]:
    size = (case.truth.shape[0], case.truth.shape[1])
    yield f"{row}: filled", baselines.filled_box(size, box), None
    yield f"{row}: ellipse", baselines.ellipse_in_box(size, box), None
    yield f"{row}: Otsu", baselines.otsu_in_box(case.frame, box), None


def centre_point(case: Case, dialogue: Dialogue, rng: np.random.Generator) -> Iterator[Measured]:
    """One point at the object's innermost place."""
    click = centre_click(case.truth)
    yield "centre point", *dialogue.ask(None, [click])
    size = (case.truth.shape[0], case.truth.shape[1])
    yield "centre point: disc", baselines.disc_at(size, *click[:2]), None


def random_point(case: Case, dialogue: Dialogue, rng: np.random.Generator) -> Iterator[Measured]:
    """One point anywhere on the object."""
    click = random_click(case.truth, rng)
    yield "random point", *dialogue.ask(None, [click])
    size = (case.truth.shape[0], case.truth.shape[1])
    yield "random point: disc", baselines.disc_at(size, *click[:2]), None


def clicks_from_point(case: Case, dialogue: Dialogue, rng: np.random.Generator) -> Iterator[Measured]:
    """A centre point, then a click where the answer is most wrong, and again."""
    yield from _click_on("clicks", dialogue, case, None, [centre_click(case.truth)])


def clicks_from_box(case: Case, dialogue: Dialogue, rng: np.random.Generator) -> Iterator[Measured]:
    """A tight box, then likewise."""
    yield from _click_on("box, clicks", dialogue, case, box_around(case.truth), [])


def _click_on(
    row: str, dialogue: Dialogue, case: Case, box: np.ndarray | None, clicks: list[Click]
) -> Iterator[Measured]:
    """Every answer up to the last count; where nothing is wrong any more the last answer stands."""
    mask, score = dialogue.ask(box, clicks)
    for count in range(1, CLICK_COUNTS[-1] + 1):
        if box is not None or count > 1:
            click = corrective_click(mask, case.truth)
            if click is not None:
                clicks = [*clicks, click]
                mask, score = dialogue.ask(box, clicks)
        yield f"{row} {count}", mask, score


def one_scribble(case: Case, dialogue: Dialogue, rng: np.random.Generator) -> Iterator[Measured]:
    """One stroke on the object."""
    yield "scribble", *dialogue.ask_stroke(stroke(rng, case.truth))


def one_lasso(case: Case, dialogue: Dialogue, rng: np.random.Generator) -> Iterator[Measured]:
    """A quick line around the object, what it encloses by itself, and the tight box around the line."""
    area = rough_outline(rng, case.truth)
    yield "lasso", *dialogue.ask_lasso(area)
    yield "lasso: enclosed", area, None
    yield "lasso: box around it", *dialogue.ask(box_around(area), [])


def start_from_mask(case: Case, dialogue: Dialogue, rng: np.random.Generator) -> Iterator[Measured]:
    """The object less three pixels all around, and one click where most is missing."""
    start = eroded(case.truth)
    click = None if start is None else corrective_click(start, case.truth)
    if start is not None and click is not None:
        yield "eroded mask", start, None
        yield "eroded mask, 1 click", *dialogue.ask_correction(start, click)


def automatic(case: Case, dialogue: Dialogue, rng: np.random.Generator) -> Iterator[Measured]:
    """No prompt: the found object that is most like the truth."""
    found = dialogue.ask_nothing()
    nothing = np.zeros_like(case.truth)
    yield "automatic, best match", max(found, key=lambda mask: iou(mask, case.truth), default=nothing), None


PROTOCOLS: dict[str, Protocol] = {
    "box": tight_box,
    "jitter": box_with_jitter,
    "point": centre_point,
    "random": random_point,
    "clicks": clicks_from_point,
    "box-clicks": clicks_from_box,
    "scribble": one_scribble,
    "lasso": one_lasso,
    "start": start_from_mask,
    "automatic": automatic,
}
"""By the names that the command line has for them."""

_ASKED_WITH = {
    "box": {"box"},
    "jitter": {"box"},
    "box-clicks": {"box", "point"},
    "lasso": {"box"},
    "start": {"point", "box"},
}
"""The kinds of prompts of those that need not points alone."""

_DRAWN = {"scribble", "lasso", "start"}
"""Those that draw, or start from a mask."""


def answerable(names: Sequence[str], kinds: Sequence[str], *, takes_drawings: bool = True) -> list[str]:
    """Those of the protocols that ask with these kinds of prompts alone, and without drawings if they are not taken."""
    asked = [name for name in names if _ASKED_WITH.get(name, {"point"}) <= set(kinds)]
    return asked if takes_drawings else [name for name in asked if name not in _DRAWN]
