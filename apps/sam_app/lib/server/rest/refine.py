"""One request on top of an earlier result: the prompts of both, and what else still holds."""

from __future__ import annotations

from typing import Any

from lib.server.http.errors import NotFinishedError, RefineError
from lib.server.rest.results import StoredResult
from lib.server.rest.schemas import SAMInput
from lib.server.rest.timestamps import print_timestamp
from lib.transforms.sam_input import MAX_RECTANGLES, SAMPrompts

LOGITS = "logits.npz"
"""Of a result: each object's candidates, ``scores_n`` (C,) and ``logits_n`` (C, 256, 256) float32, n from 0."""

EARLIER_LOGITS = "earlier_logits.npz"
"""Of a pending one: those of the result that it goes on from."""


def check_refinable(earlier: StoredResult) -> None:
    """Whether one can go on from that result.

    Raises:
        NotFinishedError: If it is still waiting or being worked on.
        RefineError: If it failed.
    """
    name = print_timestamp(earlier.timestamp)
    if earlier.state == "queued":
        raise NotFinishedError(f"the result {name} is not finished yet; refine it when it is")
    if earlier.state == "failed":
        raise RefineError(f"the result {name} failed, so there is nothing to refine; send the image again")


def merge_request(asked: SAMInput, before: SAMPrompts, *, same_frame: bool) -> SAMPrompts:
    """What to segment for both: what ``asked`` leaves open is as in the earlier request.

    Its prompts are added to the earlier ones, a prompt that is there already only once; a point that was positive and
    is now negative, or the other way round, is what it is now. On another frame only the new prompts hold.

    Args:
        asked: The new request.
        before: What was segmented for the earlier result.
        same_frame: See :func:`is_same_frame`.

    Raises:
        RefineError: If there are more rectangles than objects can be.
    """
    changes: dict[str, Any] = {
        name: getattr(before, name)
        for name in ("model", "frame", "window", "label", "multimask")
        if getattr(asked, name) is None
    }
    if same_frame:
        now = {(point.x, point.y) for point in (asked.positive_points or []) + (asked.negative_points or [])}
        for kind in ("positive_points", "negative_points"):
            kept = [point for point in getattr(before, kind) or [] if (point.x, point.y) not in now]
            changes[kind] = kept + (getattr(asked, kind) or [])
        added = [box for box in asked.rectangles or [] if box not in (before.rectangles or [])]
        changes["rectangles"] = (before.rectangles or []) + added
    merged = asked.prompts(**changes)
    count = len(merged.rectangles or ())
    if count > MAX_RECTANGLES:
        raise RefineError(
            f"there are {count} rectangles with those of the result; at most {MAX_RECTANGLES} are possible"
        )
    return merged


def is_same_frame(asked: SAMInput, earlier: StoredResult) -> bool:
    """Whether the request means the frame that the earlier result shows."""
    return asked.frame is None or asked.frame == earlier.facts.slice
