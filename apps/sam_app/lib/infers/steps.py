"""What each client has asked for step by step, so that its last steps can be undone."""

from collections.abc import Sequence
from dataclasses import replace

from lib.infers.click_memory import ClickMemory, Key
from lib.sam.prompts import PromptError
from lib.transforms.request import SegmentRequest, ViewerPrompts

MOST_STEPS = 200
"""For one object."""


class Steps:
    """The prompts of each client's last requests, by image and object; they are small, so many are stored."""

    def __init__(self) -> None:
        self._memory: ClickMemory[ViewerPrompts] = ClickMemory(MOST_STEPS, per_client=10 * MOST_STEPS)

    def remember(self, request: SegmentRequest) -> None:
        """Store an answered request's prompts as the latest step, if its client is known."""
        key, prompts = _key(request), request.prompts
        if key is not None and isinstance(prompts, ViewerPrompts) and prompts not in self._memory.recall(key)[-1:]:
            self._memory.remember(key, prompts)

    def undone(self, request: SegmentRequest) -> SegmentRequest:
        """Return the request with the prompts that its client had sent as many steps before as it asks to undo.

        A step before is the latest request whose prompts these ones extend: with what was undone earlier, or was for
        another slice, they have nothing to do.

        Raises:
            PromptError: If there are fewer steps.
        """
        key, prompts = _key(request), request.prompts
        if not isinstance(prompts, ViewerPrompts):
            return request
        known = self._memory.recall(key) if key is not None else ()
        for done in range(request.options.undo):
            prompts = _before(prompts, known)
            if prompts is None:
                raise PromptError(
                    f"undo can be at most {done} here: so many earlier steps with fewer prompts are known of this "
                    "client, image and label"
                )
        return replace(request, prompts=prompts)


def _before(prompts: ViewerPrompts, known: Sequence[ViewerPrompts]) -> ViewerPrompts | None:
    """Return the latest of the known prompts with most of these, but not all; None if there is none."""
    fewer = [one for one in reversed(known) if one.count < prompts.count and prompts.extends(one)]
    return max(fewer, key=lambda one: one.count, default=None)


def _key(request: SegmentRequest) -> Key | None:
    if not request.client or not isinstance(request.image, str):
        return None
    return request.client, request.image, request.object_name or ""
