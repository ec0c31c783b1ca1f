"""Follow an object through a volume with SAM 2's memory: the slices are the frames of a video.

Sources: Ravi et al. 2024, arXiv:2408.00714, section 4; facebookresearch/sam2, ``sam2/sam2_video_predictor.py``. That
class reads its frames from JPEG files and stores all of them and everything it computed. Here its step for one frame,
``SAM2Base.track_step``, is called on slices as they are reached, and returns the same masks. Only what a later step can
use is stored: 16 slices and those with prompts, 0.5 MiB each.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from lib.base.clock import current_clock
from lib.sam.embeddings.cache import Embedding
from lib.sam.logits_grid import dice
from lib.sam.prompts import BACKGROUND, Prompts
from lib.sam.sam2_predictor import LOGITS_BOUND, Sam2Predictor
from lib.sam.volume.propagation import Progress, PropagationOptions, VolumePrompts, propagate
from lib.sam.volume.result import SliceMask, Stop, VolumeResult

_MAX_ABSENT_SLICES = 5
"""The object has ended after this many slices in a row without it; after fewer, SAM 2's memory finds it again."""


@propagate.register
def propagate_by_memory(
    predictor: Sam2Predictor,
    frame: Callable[[int], np.ndarray],
    prompts: VolumePrompts,
    options: PropagationOptions | None = None,
    *,
    earlier: VolumeResult | None = None,
) -> VolumeResult:
    """Segment the object on every slice on which SAM 2 finds it; arguments as of :func:`.propagation.propagate`.

    Slices are visited upwards from the first marked one, then downwards from it, as upstream does. Every slice uses
    the memory of all marked ones, or of the nearest eight. Background points on a slice without other prompts correct
    the mask there, and are remembered as prompts are.

    Args:
        predictor: The model.
        frame: Returns slice k, ``(H, W, 3)`` uint8 after windowing; called only for slices that are reached.
        prompts: The user's prompts.
        options: Only ``max_slices`` is used; SAM 2 has its own rules for when an object has ended.
        earlier: Not used: every slice depends on every prompt. The embeddings of slices come from the cache, though.

    Returns:
        The masks, without anchors or spans. A mask's ``score`` is SAM 2's predicted probability that the object is on
        the slice.

    Raises:
        PromptError: If a prompt is outside its slice.
        TimeLimitError: If the current clock's time is up.
    """
    options = options or PropagationOptions()
    tracker = _Tracker(predictor, frame, prompts, options.max_slices)
    marked = {k: tracker.mark(k, prompts.marked[k]) for k in sorted(prompts.marked)}
    found = {k: mask for k, mask in marked.items() if _has_object(mask)}
    stops: list[Stop] = []
    if found:
        first, last = min(marked), max(marked)
        up, down = range(first + 1, prompts.bounds.stop), range(first - 1, prompts.bounds.start - 1, -1)
        for slices, anchor in ((up, last), (down, first)):
            stops.append(tracker.walk(slices, anchor, marked, found))
    return VolumeResult(dict(sorted(found.items())), tuple(stops), {}, {}, rules=("sam2", options, prompts.bounds))


def _has_object(mask: SliceMask) -> bool:
    return bool(mask.packed.any())


class _Tracker:
    """One object in one volume: its memory, and the steps that use and extend it.

    Args:
        predictor: The model.
        frame: Returns a slice.
        prompts: The user's prompts.
        max_slices: At most this many are followed beyond the first and the last marked one; None for no limit.
    """

    def __init__(
        self,
        predictor: Sam2Predictor,
        frame: Callable[[int], np.ndarray],
        prompts: VolumePrompts,
        max_slices: int | None,
    ) -> None:
        self._predictor = predictor
        self._frame = frame
        self._prompts = prompts
        self._max_slices = max_slices
        self._prompted: dict[int, dict[str, Any]] = {}
        self._followed: dict[int, dict[str, Any]] = {}
        self._position: list[torch.Tensor] | None = None  # the same for every slice
        self._reach = max(predictor.module.num_maskmem, predictor.module.max_obj_ptrs_in_encoder)
        self._progress = Progress()

    def mark(self, k: int, prompts: Prompts) -> SliceMask:
        """Return the mask of a slice's own prompts, without memory; it is remembered for all other slices."""
        embedding = self._predictor.encode(self._frame(k))
        return self._step(k, embedding, prompts, is_first=True)

    def walk(self, slices: range, anchor: int, marked: Mapping[int, SliceMask], found: dict[int, SliceMask]) -> Stop:
        """Follow the object slice by slice, add its masks to ``found`` and return where it ended.

        Args:
            slices: In visiting order; the first is next to a marked one.
            anchor: The marked slice beyond which the object can end.
            marked: The masks of all slices with their own prompts.
            found: The masks are added here.
        """
        before, absent = marked[slices.start - slices.step], 0
        for k in slices:
            if k in marked:
                before, absent = marked[k], 0
                continue
            beyond = (k - anchor) * slices.step
            if self._max_slices is not None and beyond > self._max_slices:
                return Stop(anchor, k, "max_slices")
            mask = self._follow(k, in_reverse=slices.step < 0)
            if _has_object(mask):
                found[k] = replace(mask, overlap=dice(mask.logits > 0, before.logits > 0))
                absent = 0
            else:
                absent += 1
            if beyond >= _MAX_ABSENT_SLICES and absent >= _MAX_ABSENT_SLICES:
                return Stop(anchor, k - (absent - 1) * slices.step, "nothing found")
            before = mask
        return Stop(anchor, slices.stop, "end of slices")

    def _follow(self, k: int, *, in_reverse: bool) -> SliceMask:
        """Return the mask found by the memory of other slices, corrected by background points, which are remembered."""
        background = self._prompts.background.get(k)
        embedding = self._predictor.encode(self._frame(k))
        mask = self._step(k, embedding, None, in_reverse=in_reverse)
        if background is not None and _has_object(mask):
            points = Prompts(background, [BACKGROUND] * len(background), mask_logits=mask.logits)  # type: ignore[arg-type]
            del self._followed[k]
            mask = self._step(k, embedding, points, in_reverse=in_reverse)
        self._forget(k)
        self._progress.show(k)
        return mask

    @torch.inference_mode()
    def _step(
        self,
        k: int,
        embedding: Embedding,
        prompts: Prompts | None,
        *,
        is_first: bool = False,
        in_reverse: bool = False,
    ) -> SliceMask:
        module, size = self._predictor.module, embedding.image_size
        points = mask = earlier = None
        if prompts is not None:
            prompts = self._predictor.understood(prompts).within(size[1], size[0])
            points = self._predictor.point_inputs(prompts, size)
            if prompts.mask_logits is not None:
                logits = torch.tensor(prompts.mask_logits, device=self._predictor.device)[None, None]
                if points is None:
                    side = (module.image_size, module.image_size)
                    mask = (F.interpolate(logits, side, mode="bilinear", align_corners=False) > 0).float()
                else:
                    earlier = logits.clamp(-LOGITS_BOUND, LOGITS_BOUND)
        levels = (*embedding.finer, embedding.features)

        def track() -> dict[str, Any]:
            with current_clock().stage("decode"), torch.inference_mode():
                tracked: dict[str, Any] = module.track_step(
                    frame_idx=k,
                    is_init_cond_frame=is_first,
                    current_vision_feats=[_flat(level) for level in levels],
                    current_vision_pos_embeds=[_flat(module.image_encoder.neck.position_encoding(embedding.features))],
                    feat_sizes=[tuple(level.shape[-2:]) for level in levels],
                    point_inputs=points,
                    mask_inputs=mask,
                    output_dict={"cond_frame_outputs": self._prompted, "non_cond_frame_outputs": self._followed},
                    num_frames=self._prompts.bounds.stop,
                    track_in_reverse=in_reverse,
                    prev_sam_mask_logits=earlier,
                )
            return tracked

        output = self._predictor.on_device(track)
        if self._position is None:
            self._position = output["maskmem_pos_enc"]
        memory = self._followed if prompts is None else self._prompted
        memory[k] = {
            "maskmem_features": output["maskmem_features"].to(torch.bfloat16),  # as upstream stores them
            "maskmem_pos_enc": self._position,
            "obj_ptr": output["obj_ptr"],
        }
        shown = self._predictor.masks(output["pred_masks"], size)[0, 0].cpu().numpy()
        return SliceMask(
            logits=output["pred_masks"][0, 0].cpu().numpy().astype(np.float16),
            packed=np.packbits(shown),
            size=size,
            source="followed" if prompts is None else "prompts",
            score=float(output["object_score_logits"].sigmoid()),
        )

    def _forget(self, k: int) -> None:
        """Drop memory that no later step uses: far from this slice and from the first marked one (going down)."""
        first = min(self._prompted)
        for other in list(self._followed):
            if abs(other - k) > self._reach and abs(other - first) > self._reach:
                del self._followed[other]


def _flat(level: torch.Tensor) -> torch.Tensor:
    """Reshape ``(1, C, h, w)`` to the ``(h * w, 1, C)`` that SAM 2's attention takes."""
    return level.flatten(2).permute(2, 0, 1)
