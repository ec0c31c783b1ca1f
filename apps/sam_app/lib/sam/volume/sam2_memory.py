"""SAM 2's step for one slice: read what is remembered of other slices, decode, and remember the mask found.

Sources: Ravi et al. 2024, arXiv:2408.00714, section 4; facebookresearch/sam2, ``sam2/modeling/sam2_base.py``, of which
this is ``track_step`` for one object, with the networks run by the model's runtime. It gives the same masks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from lib.sam.embeddings.cache import Embedding
from lib.sam.runtimes.memory_form import MEMORY_ATTENTION, MEMORY_ENCODER
from lib.sam.sam2_predictor import Sam2Predictor

_NO_OBJECT = -1024.0
"""Logit everywhere on a slice without the object."""

_MASK_SCALE, _MASK_BIAS = 20.0, -10.0
"""A mask given by the user as logits: -10 and +10."""


@dataclass(frozen=True, eq=False)
class SliceMemory:
    """What is remembered of the object on a slice.

    Args:
        features: ``(1, h, w, c)`` bfloat16, as upstream stores them: 0.5 MiB for a model of 1024×1024.
        pointer: ``(1, C)`` float32: a vector that stands for the object.
    """

    features: torch.Tensor
    pointer: torch.Tensor


@dataclass(frozen=True, eq=False)
class Memories:
    """What is remembered of a volume's slices.

    Args:
        prompted: Of slices with prompts; every slice uses the nearest of them.
        followed: Of the others; a slice uses those just before it in the direction of following.
    """

    prompted: dict[int, SliceMemory] = field(default_factory=dict)
    followed: dict[int, SliceMemory] = field(default_factory=dict)

    @property
    def slices(self) -> set[int]:
        """Those of which something is remembered."""
        return {*self.prompted, *self.followed}

    def copy(self) -> "Memories":
        """Return the same memories, in which slices can be replaced."""
        return Memories(dict(self.prompted), dict(self.followed))

    def forget(self, k: int) -> None:
        """Drop what is remembered of a slice."""
        self.prompted.pop(k, None)
        self.followed.pop(k, None)


@dataclass(frozen=True, eq=False)
class StepPrompts:
    """Prompts of one object on a slice, in the model's terms.

    Args:
        points: As of :meth:`.Sam2Predictor.point_inputs`; a box is two of them.
        logits: ``(1, 1, S, S)``: an earlier mask that the points correct.
        mask: ``(1, 1, side, side)`` of 0 and 1, in pixels of the model's input: the mask itself, without points.
    """

    points: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    mask: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Found:
    """The object on one slice.

    Args:
        logits: ``(1, 1, S, S)``.
        presence: Logit of whether it is there.
        memory: What is to be remembered of it.
    """

    logits: torch.Tensor
    presence: float
    memory: SliceMemory


class Sam2Step:
    """Steps of one SAM 2; they run on the device, so in the queue's thread.

    Args:
        predictor: The model.
        slices: Upper bound of the volume's slices.
    """

    def __init__(self, predictor: Sam2Predictor, slices: int) -> None:
        self._predictor = predictor
        self._module = predictor.module
        self._pointers = min(slices, self._module.max_obj_ptrs_in_encoder)

    def remembering(self, k: int, embedding: Embedding, memories: Memories, *, in_reverse: bool) -> torch.Tensor:
        """Return a slice's features ``(1, C, h, w)`` with what is remembered of other slices."""
        chosen, others = _nearest(k, memories.prompted, self._module.max_cond_frames_in_attn)
        step = 1 if in_reverse else -1
        known = {**others, **memories.followed}  # a slice with prompts that is not among the nearest counts as followed
        reach = self._module.num_maskmem - 1
        near = [(distance, known.get(k + step * distance)) for distance in range(reach, 0, -1)]
        spatial = [(reach, memory) for memory in chosen.values()]
        spatial += [(distance - 1, memory) for distance, memory in near if memory is not None]
        past = {t: memory for t, memory in chosen.items() if (t - k) * step >= 0}
        pointers = [(abs(k - t), memory.pointer) for t, memory in past.items()]
        for distance in range(1, self._pointers):
            memory = known.get(k + step * distance)
            if memory is not None:
                pointers.append((distance, memory.pointer))
        pieces, ages = self._pieces(pointers)
        output = self._predictor.runtime.compute(
            MEMORY_ATTENTION,
            embedding.features.permute(0, 2, 3, 1),
            torch.cat([memory.features for _, memory in spatial]).float(),
            self._module.maskmem_tpos_enc[[index for index, _ in spatial], 0, 0],
            pieces,
            ages,
        )
        return output.permute(0, 3, 1, 2)

    def _pieces(self, pointers: list[tuple[int, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return pointers, each cut into pieces of a memory's channels, and the encoding of their distances."""
        channels = self._module.mem_dim
        if not pointers:
            nothing = torch.zeros(0, channels, device=self._predictor.device)
            return nothing, nothing
        pieces = torch.cat([pointer for _, pointer in pointers]).view(-1, channels)
        width = self._module.hidden_dim
        distances = torch.tensor([distance for distance, _ in pointers], device=pieces.device) / (self._pointers - 1)
        exponents = 2 * (torch.arange(width // 2, device=pieces.device, dtype=torch.float32) // 2) / (width // 2)
        angles = distances[:, None] / 10000**exponents
        ages = self._module.obj_ptr_tpos_proj(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return pieces, ages.repeat_interleave(width // channels, dim=0)

    def find(self, embedding: Embedding, features: torch.Tensor, prompts: StepPrompts, *, is_first: bool) -> Found:
        """Return the object on a slice.

        Args:
            embedding: The slice's.
            features: ``(1, C, h, w)``: its features as the decoder takes them, see :meth:`remembering`.
            prompts: Its own prompts, if it has some.
            is_first: Whether nothing is remembered of other slices.
        """
        if prompts.mask is not None:
            return self._given(embedding, prompts.mask)
        several = self._module._use_multimask(is_first, prompts.points)
        masks, presence, token = self._decoded(embedding, features, prompts.points, prompts.logits, several=several)
        is_there = presence > 0
        masks = torch.where(is_there[..., None, None], masks, _NO_OBJECT)
        side = (self._module.image_size, self._module.image_size)
        full = F.interpolate(masks, side, mode="bilinear", align_corners=False)
        shown = (
            (full > 0).float() if prompts.points is not None else full.sigmoid()
        )  # what the user saw of a marked one
        return self._found(embedding, masks, shown, presence, self._pointer(token, is_there))

    def _given(self, embedding: Embedding, mask: torch.Tensor) -> Found:
        """Return the object whose mask the user gave."""
        full = mask * _MASK_SCALE + _MASK_BIAS
        low = F.interpolate(full, scale_factor=0.25, mode="bilinear", align_corners=False, antialias=True)
        prompt = self._module.mask_downsample(mask)
        _, presence, token = self._decoded(embedding, embedding.features, None, prompt, several=False)
        is_there = mask.flatten(1).any(1, keepdim=True)
        pointer = self._pointer(token, presence > 0)
        pointer = torch.where(is_there, pointer, self._module.no_obj_ptr)
        return self._found(embedding, low, full.sigmoid(), _MASK_SCALE * is_there.float() + _MASK_BIAS, pointer)

    def _decoded(
        self,
        embedding: Embedding,
        features: torch.Tensor,
        points: dict[str, torch.Tensor] | None,
        logits: torch.Tensor | None,
        *,
        several: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the best mask ``(1, 1, S, S)``, the logit of the object's presence ``(1, 1)`` and the mask's token."""
        if points is None:  # upstream then gives a point that is none
            device = features.device
            xy, labels = torch.zeros(1, 1, 2, device=device), -torch.ones(1, 1, dtype=torch.int32, device=device)
        else:
            xy, labels = points["point_coords"], points["point_labels"]
        prompt = self._predictor.embedded((xy, labels), logits)
        masks, scores, tokens, presence = self._predictor.runtime.decode([features, *embedding.finer], *prompt)
        if not several:
            return self._predictor.single(masks, scores)[0], presence, tokens[:, 0]
        best = 1 + int(scores[0, 1:].argmax())
        return masks[:, best : best + 1], presence, tokens[:, best]

    def _pointer(self, token: torch.Tensor, is_there: torch.Tensor) -> torch.Tensor:
        pointer: torch.Tensor = torch.where(is_there, self._module.obj_ptr_proj(token), self._module.no_obj_ptr)
        return pointer

    def _found(
        self,
        embedding: Embedding,
        logits: torch.Tensor,
        shown: torch.Tensor,
        presence: torch.Tensor,
        pointer: torch.Tensor,
    ) -> Found:
        module: Any = self._module
        scaled = shown * module.sigmoid_scale_for_mem_enc + module.sigmoid_bias_for_mem_enc
        features = self._predictor.runtime.compute(MEMORY_ENCODER, embedding.features.permute(0, 2, 3, 1), scaled)
        if float(presence) <= 0:
            features = features + module.no_obj_embed_spatial
        return Found(logits, float(presence), SliceMemory(features.to(torch.bfloat16), pointer))


def _nearest(
    k: int, prompted: Mapping[int, SliceMemory], count: int
) -> tuple[dict[int, SliceMemory], dict[int, SliceMemory]]:
    """Return the memories of the ``count`` slices with prompts that are nearest to slice k, and those of the others."""
    from sam2.modeling.sam2_utils import select_closest_cond_frames

    chosen, others = select_closest_cond_frames(k, prompted, count)
    return dict(chosen), dict(others)
