"""One SAM 2 model ready to use on single images: an image is encoded once and decoded for any number of prompts.

Sources: Ravi et al. 2024, arXiv:2408.00714; facebookresearch/sam2, ``sam2/sam2_image_predictor.py``. Masks, scores and
logits are equal to that predictor's for the same weights.
"""

from functools import singledispatch
from typing import Any

import torch
from torch import nn

from lib.sam.embeddings.cache import Embedding
from lib.sam.models.registry import ModelSpec, Sam2Spec
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.runtimes.memory_form import memory_networks
from lib.sam.runtimes.runtime import Networks

_BOX_CORNERS = (2, 3)
"""Point labels of a box's top left and bottom right corner."""

LOGITS_BOUND = 32.0
"""Mask prompts are clipped to this, as upstream clips the logits that it returns."""


class Sam2Predictor(Predictor):
    """One SAM 2 with its weights on one device; see :class:`~lib.sam.predictor.Predictor`.

    An embedding's ``features``, ``(1, 256, 64, 64)``, include neither memory nor the vector for "no memory", so that
    the same embedding can be used for a single image and for a slice of a volume; ``finer`` are
    ``(1, 32, 256, 256)`` and ``(1, 64, 128, 128)``. Together they take 16 MiB.
    """

    remembers = True

    def point_inputs(self, prompts: Prompts, image_size: tuple[int, int]) -> dict[str, torch.Tensor] | None:
        """Return points and box of one object as ``SAM2Base.track_step`` takes them; None if there are none.

        Args:
            prompts: In pixels of the image.
            image_size: ``(height, width)``.

        Returns:
            ``point_coords`` ``(1, N, 2)`` in pixels of the model's input and ``point_labels`` ``(1, N)``.
        """
        points = box = None
        if len(prompts.points):
            xy = self.preprocessor.coordinates(prompts.points, image_size)
            labels = torch.tensor(prompts.labels.tolist(), dtype=torch.int, device=self.device)
            points = (self._tensor(xy)[None], labels[None])
        if prompts.box is not None:
            box = self._tensor(self.preprocessor.coordinates(prompts.box.reshape(2, 2), image_size)).reshape(1, 4)
        together = _as_points(points, box)
        return None if together is None else {"point_coords": together[0], "point_labels": together[1]}

    @property
    def prompt_encoder(self) -> Any:
        """See :class:`~lib.sam.predictor.Predictor`."""
        return self.module.sam_prompt_encoder

    @staticmethod
    def networks(module: Any) -> Networks:
        """See :class:`~lib.sam.predictor.Predictor`."""
        image_pe = module.sam_prompt_encoder.get_dense_pe().detach()
        others = memory_networks(module)
        return Networks(_Encoder(module), module.sam_mask_decoder, image_pe, int(module.image_size), others)

    def embedded(
        self, points: tuple[torch.Tensor, torch.Tensor] | None, logits: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens and the dense embedding of B objects' prompts.

        Args:
            points: ``(B, N, 2)`` in pixels of the model's input and ``(B, N)`` int labels.
            logits: ``(B, 1, S, S)``.
        """
        clipped = None if logits is None else logits.clamp(-LOGITS_BOUND, LOGITS_BOUND)
        sparse, dense = self.prompt_encoder(points=points, boxes=None, masks=clipped)
        return sparse, dense

    def single(self, masks: torch.Tensor, scores: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return of the four masks and scores the single one; if it is unstable, the best of the three candidates."""
        chosen: tuple[torch.Tensor, torch.Tensor] = self.module.sam_mask_decoder._dynamic_multimask_via_stability(
            masks, scores
        )
        return chosen

    def without_memory(self, features: torch.Tensor) -> torch.Tensor:
        """Return the features ``(1, C, h, w)`` of an image as the decoder takes them when nothing is remembered."""
        added: torch.Tensor = features + self.module.no_mem_embed.view(1, -1, 1, 1)
        return added

    def _run_decoder(
        self,
        embedding: Embedding,
        points: tuple[torch.Tensor, torch.Tensor] | None,
        boxes: torch.Tensor | None,
        logits: torch.Tensor | None,
        multimask: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        levels = [self.without_memory(embedding.features), *embedding.finer]
        masks, scores, _, _ = self.runtime.decode(levels, *self.embedded(_as_points(points, boxes), logits))
        return (masks[:, 1:], scores[:, 1:]) if multimask else self.single(masks, scores)


@singledispatch
def predictor_class(spec: ModelSpec) -> type[Predictor]:
    """Return the class of a model's predictor, by the type of its spec."""
    return Predictor


@predictor_class.register
def _(spec: Sam2Spec) -> type[Predictor]:
    return Sam2Predictor


class _Encoder(nn.Module):
    """SAM 2's image encoder: from ``(1, 3, S, S)`` to the features for decoding prompts, followed by the finer ones."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.image_encoder = module.image_encoder
        self.finest, self.finer = module.sam_mask_decoder.conv_s0, module.sam_mask_decoder.conv_s1

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        finest, finer, features = self.image_encoder(pixels)["backbone_fpn"]
        return features, self.finest(finest), self.finer(finer)


def _as_points(
    points: tuple[torch.Tensor, torch.Tensor] | None, boxes: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return points and boxes as SAM 2 was trained on them: a box as two points with special labels, first.

    Args:
        points: ``(B, N, 2)`` XY and ``(B, N)`` int labels; or None.
        boxes: ``(B, 4)`` XYXY; or None.
    """
    if boxes is None:
        return points
    corners = boxes.reshape(-1, 2, 2)
    labels = torch.tensor(_BOX_CORNERS, dtype=torch.int, device=boxes.device).expand(len(corners), 2)
    if points is None:
        return corners, labels
    return torch.cat([corners, points[0]], dim=1), torch.cat([labels, points[1]], dim=1)
