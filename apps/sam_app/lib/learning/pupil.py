"""A model whose mask decoder is being trained, on embeddings by its own encoder, which stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from torch import Tensor, nn

from lib.learning.encoded import Encoded, on_grid
from lib.learning.examples import Mask
from lib.learning.job import TrainingRequestError
from lib.sam.embeddings.cache import EmbeddingCache
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.overlay import LearnedPrompt
from lib.sam.models.registry import ModelSpec
from lib.sam.predictor import Predictor
from lib.sam.prompts import Prompts
from lib.sam.runtimes.runtime import all_masks
from lib.sam.sam2_predictor import predictor_class


class Pupil:
    """The networks of a model on PyTorch, without its encoder.

    The statistics of normalisation layers stay those of the checkpoint: those of few pictures would be worse.

    Args:
        spec: The model.
        store: Its checkpoints.

    Raises:
        TrainingRequestError: For a SAM 2: what it remembers was trained together with its decoder.
        CheckpointError: If its checkpoint is missing or wrong.
    """

    def __init__(self, spec: ModelSpec, store: CheckpointStore) -> None:
        kind = predictor_class(spec)
        if kind.remembers:
            raise TrainingRequestError(f"{spec.name} is not taught here: its decoder and its memory belong together")
        module = spec.build()
        sha256 = store.load_into(module, spec)
        self.predictor = Predictor(spec, module, checkpoint_sha256=sha256, cache=EmbeddingCache(0))
        networks = kind.networks(module)
        self.decoder, self.image_pe = networks.decoder, networks.image_pe

    @contextmanager
    def learning(self) -> Iterator[list[nn.Parameter]]:
        """Yield the decoder's parameters, which have gradients meanwhile."""
        parameters = list(self.decoder.parameters())
        for parameter in parameters:
            parameter.requires_grad_(True)
        try:
            yield parameters
        finally:
            for parameter in parameters:
                parameter.requires_grad_(False)

    def answer(self, seen: Encoded, batch: Sequence[Prompts]) -> tuple[Tensor, Tensor]:
        """Return the logits ``(B, 4, S, S)`` and predicted IoU ``(B, 4)`` of B objects with prompts of one form."""
        sparse, dense = self.predictor.prompt_embeddings(batch, seen.size)
        return self._decode(seen, sparse.clone(), dense.clone())

    def find(self, seen: Encoded, prompt: LearnedPrompt) -> tuple[Tensor, Tensor]:
        """Return the same for a learned prompt, B = 1."""
        height, width = seen.levels[0].shape[-2:]
        return self._decode(seen, prompt.tokens, prompt.dense.expand(-1, -1, height, width))

    def _decode(self, seen: Encoded, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        masks, quality, *_ = all_masks(self.decoder, self.image_pe, seen.features(), sparse, dense)
        return masks, quality

    def targets(self, seen: Encoded, masks: Sequence[Mask]) -> Tensor:
        """Return masks ``(H, W)`` of a picture as the covered part of each cell of the logits, ``(n, S, S)``."""
        return on_grid(self.predictor, np.stack(masks), seen.size)

    def masks(self, logits: Tensor, seen: Encoded) -> np.ndarray:
        """Return the masks ``(B, H, W)`` of the single answers in logits ``(B, 4, S, S)``."""
        return self.predictor.masks(logits[:, :1], seen.size)[:, 0].numpy()
