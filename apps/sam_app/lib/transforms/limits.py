"""Bounds on what one request may ask for."""

from __future__ import annotations

from dataclasses import dataclass

from lib.imaging.readers import DEFAULT_MAX_FRAMES, DEFAULT_MAX_PIXELS
from lib.sam.prompts import PromptError

DEFAULT_MAX_PROMPTS = 1000


@dataclass(frozen=True)
class Limits:
    """What a request may ask for at most.

    Args:
        max_pixels: Frames x rows x columns of an image.
        max_frames: Frames of an image.
        max_prompts: Points and rectangles.
    """

    max_pixels: int = DEFAULT_MAX_PIXELS
    max_frames: int = DEFAULT_MAX_FRAMES
    max_prompts: int = DEFAULT_MAX_PROMPTS


def check_prompt_count(count: int, most: int) -> None:
    """Let a request pass that has not too many points and boxes.

    Raises:
        PromptError: If it has.
    """
    if count > most:
        raise PromptError(f"there are {count} points and rectangles; at most {most} are allowed")
