"""How a request refines an earlier result: the prompts of both, and which earlier settings still apply."""

from typing import Any

from lib.server.http.errors import NotFinishedError, RefineError
from lib.server.rest.results import StoredResult
from lib.server.rest.schemas import SAMInput
from lib.server.rest.timestamps import print_timestamp
from lib.transforms.sam_input import MAX_RECTANGLES, SAMPrompts

LOGITS = "logits.npz"
"""File of a result: each object's candidates, ``scores_n`` (C,) and ``logits_n`` (C, S, S) float32, n from 0."""

START = "start"
"""File of a result: the mask that its prompts correct, as it was sent, or of an earlier result."""

PROTECT = "protect"
"""File of a result: the label whose objects its masks leave as they are, as it was sent."""

EARLIER_LOGITS = "earlier_logits.npz"
"""File of a pending result: the logits of the result that it refines."""


def check_refinable(earlier: StoredResult) -> None:
    """Check that a result can be refined.

    Raises:
        NotFinishedError: If it is still waiting or being processed.
        RefineError: If it failed.
    """
    name = print_timestamp(earlier.timestamp)
    if earlier.state == "queued":
        raise NotFinishedError(f"the result {name} is not finished yet; refine it when it is")
    if earlier.state == "failed":
        raise RefineError(f"the result {name} failed, so there is nothing to refine; send the image again")


def merge_request(asked: SAMInput, before: SAMPrompts, *, same_frame: bool) -> SAMPrompts:
    """Return what to segment for both requests: what ``asked`` does not set is taken from the earlier one.

    Its prompts are added to the earlier ones, without duplicates; a point, scribble or lasso that was positive and is
    now negative, or the other way round, is as in the new request. On another frame only the new prompts apply.

    Args:
        asked: The new request.
        before: What was segmented for the earlier result.
        same_frame: Whether the request is for the frame of the earlier result.

    Raises:
        RefineError: If there are more rectangles and lassos than a result can have objects.
    """
    changes: dict[str, Any] = {
        name: getattr(before, name)
        for name in ("model", "frame", "window", "label", "multimask")
        if getattr(asked, name) is None
    }
    if same_frame:
        now = {(point.x, point.y) for point in (asked.positive_points or []) + (asked.negative_points or [])}
        for kind in ("positive_points", "negative_points"):
            unchanged = [point for point in getattr(before, kind) or [] if (point.x, point.y) not in now]
            changes[kind] = unchanged + (getattr(asked, kind) or [])
        added = [box for box in asked.rectangles or [] if box not in (before.rectangles or [])]
        changes["rectangles"] = (before.rectangles or []) + added
        for kind in ("scribbles", "lassos"):
            drawn = getattr(asked, kind) or []
            kept = [one for one in getattr(before, kind) or [] if all(one.points != now.points for now in drawn)]
            changes[kind] = kept + drawn or None
    merged = asked.prompts(**changes)
    count = len(merged.rectangles or ()) + len(merged.positive_lassos)
    if count > MAX_RECTANGLES:
        raise RefineError(
            f"there are {count} rectangles and lassos with those of the result; at most {MAX_RECTANGLES} are possible"
        )
    return merged
