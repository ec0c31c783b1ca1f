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
from lib.sam.runtimes.torch_runtime import TorchRuntime

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
            xy = self._preprocessor.coordinates(prompts.points, image_size)
            labels = torch.tensor(prompts.labels.tolist(), dtype=torch.int, device=self.device)
            points = (self._tensor(xy)[None], labels[None])
        if prompts.box is not None:
            box = self._tensor(self._preprocessor.coordinates(prompts.box.reshape(2, 2), image_size)).reshape(1, 4)
        together = _as_points(points, box)
        return None if together is None else {"point_coords": together[0], "point_labels": together[1]}

    @property
    def _prompt_encoder(self) -> Any:
        return self.module.sam_prompt_encoder

    @staticmethod
    def torch_runtime(module: Any, device: torch.device, **options: Any) -> TorchRuntime:
        """See :class:`~lib.sam.predictor.Predictor`; without a decoder, as this class decodes with finer features."""
        return TorchRuntime(_Encoder(module), None, device, **options)

    def _run_decoder(
        self,
        embedding: Embedding,
        points: tuple[torch.Tensor, torch.Tensor] | None,
        boxes: torch.Tensor | None,
        logits: torch.Tensor | None,
        multimask: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        sparse, dense = self._prompt_encoder(
            points=_as_points(points, boxes),
            boxes=None,
            masks=None if logits is None else logits.clamp(-LOGITS_BOUND, LOGITS_BOUND),
        )
        low_res, scores, _, _ = self.module.sam_mask_decoder(
            image_embeddings=embedding.features + self.module.no_mem_embed.view(1, -1, 1, 1),
            image_pe=self._prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=multimask,
            repeat_image=len(sparse) > 1,
            high_res_features=list(embedding.finer),
        )
        return low_res, scores


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
        self.image_encoder = module.image_encoder  # so that its blocks are found
        self._forward = module.forward_image

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *finer, features = self._forward(pixels)["backbone_fpn"]
        return (features, *finer)


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
