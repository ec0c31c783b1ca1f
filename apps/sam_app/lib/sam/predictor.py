"""One SAM model ready to use: an image is encoded once and decoded for any number of prompts.

Concurrency: encodes wait in the device's queue, see :mod:`lib.sam.device_queue`; decodes do not, and so never wait for
another image's encode. Waiting, encoding and decoding check the current :class:`~lib.base.clock.Clock` and end when its
time is up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np
import torch

from lib.base.clock import PreemptedError, current_clock
from lib.sam.device_queue import DeviceQueue, ShouldStop
from lib.sam.embeddings.cache import Embedding, EmbeddingCache, embedding_key
from lib.sam.logits_grid import LogitsGrid
from lib.sam.models.overlay import LearnedPrompt
from lib.sam.models.registry import ModelSpec
from lib.sam.models.versions import Version
from lib.sam.packed_mask import PackedMask
from lib.sam.preprocessing import make_preprocessor
from lib.sam.prompts import BACKGROUND, PromptError, Prompts
from lib.sam.runtimes.remote import RemoteEncoder, WorkersRefusedError, WorkersUnavailableError
from lib.sam.runtimes.runtime import Networks, Runtime, never
from lib.sam.runtimes.torch_runtime import TorchRuntime

T = TypeVar("T")

_MAX_DECODE_POINTS = 1024
"""Maximum of points in one decode, over all its objects: each point attends to every place of the embedding."""

_TRY_AGAIN_AFTER_S = 1.0
"""Pause before what nobody waits for is tried again, if there was no worker."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """The candidate masks of one object, best score first.

    Args:
        packed: The C masks, at the image's size; C is 1, or 3 with ``multimask``.
        scores: ``(C,)`` float32, the model's own estimate of each mask's IoU.
        low_res_logits: ``(C, S, S)`` float32, usable as the next call's ``mask_logits``; see
            :attr:`Predictor.logits_side`.
    """

    packed: tuple[PackedMask, ...]
    scores: np.ndarray
    low_res_logits: np.ndarray

    @property
    def masks(self) -> np.ndarray:
        """All masks unpacked, ``(C, H, W)`` bool; unpacked again at each access."""
        return np.stack([np.asarray(mask) for mask in self.packed])

    def without(self, area: np.ndarray) -> Prediction:
        """Return it with an area ``(H, W)`` bool cut out of its masks; the logits stay."""
        packed = tuple(PackedMask.of(np.asarray(mask, dtype=bool) & ~area) for mask in self.packed)
        return replace(self, packed=packed)


@dataclass(frozen=True)
class _PrefetchOf:
    """Step of a prefetch, equal to another of the same model and frame."""

    predictor: Predictor
    frame: Callable[[], np.ndarray | None]

    def __call__(self, should_stop: ShouldStop) -> None:
        self.predictor.prefetch(self.frame, should_stop)


class Predictor:
    """One model with its weights on one device.

    Args:
        spec: The model's spec.
        module: Built by ``spec.build()`` with its weights loaded; put into evaluation mode here.
        checkpoint_sha256: SHA-256 of the weights' file, in hexadecimal; part of every embedding's key, as what is
            learned leaves the encoder as it is.
        cache: Stores embeddings; may be shared among predictors.
        device: Where to run.
        queue: The device's queue; shared among its predictors.
        runtime: Runs the encoder and the decoder instead of their modules; PyTorch in float32 when None.
    """

    remembers = False
    """Whether it follows an object through a volume by networks of its own."""

    def __init__(
        self,
        spec: ModelSpec,
        module: Any,
        *,
        checkpoint_sha256: str,
        cache: EmbeddingCache,
        device: torch.device | str = "cpu",
        queue: DeviceQueue | None = None,
        runtime: Runtime | None = None,
    ) -> None:
        self.spec = spec
        self.checkpoint_sha256 = self._encoder_sha256 = checkpoint_sha256
        self.device = torch.device(device)
        self.module = module.to(self.device).eval().requires_grad_(False)
        self.preprocessor = make_preprocessor(spec, module)
        self._cache = cache
        self._queue = self._encodes = queue or DeviceQueue()
        self._workers: RemoteEncoder | None = None
        self.version: Version | None = None
        self._learned_prompt: LearnedPrompt | None = None
        self.runtime = runtime or TorchRuntime.of(self.networks(self.module), self.device)

    def with_runtime(self, runtime: Runtime) -> Self:
        """Return this predictor with another runtime of the same model."""
        other = copy(self)
        other.runtime = runtime
        return other

    def with_workers(self, encoder: RemoteEncoder, queue: DeviceQueue) -> Self:
        """Return this predictor with its images encoded by workers; all else stays here.

        Args:
            encoder: Gives an image to them.
            queue: Theirs.
        """
        other = copy(self)
        other._workers, other._encodes = encoder, queue
        return other

    def as_version(self, version: Version, runtime: Runtime, prompt: LearnedPrompt | None) -> Self:
        """Return this predictor with what was learned; embeddings are valid for both.

        Args:
            version: What is learned.
            runtime: With the learned decoder.
            prompt: Of a label that it finds by itself.
        """
        other = self.with_runtime(runtime)
        other.version, other._learned_prompt = version, prompt
        other.checkpoint_sha256 = str(version.manifest["sha256"])
        return other

    @property
    def title(self) -> str:
        """The model's name, with its version if it has learned: ``sam_tiny@3``."""
        return self.version.title if self.version else self.spec.name

    @torch.inference_mode()
    def find(self, embedding: Embedding) -> Prediction:
        """Return what a learned prompt finds on an encoded image; its mask may be empty.

        Raises:
            PromptError: If this predictor answers prompts only.
            TimeLimitError: If the current clock's time is up.
        """
        prompt, clock = self._learned_prompt, current_clock()
        if prompt is None:
            raise PromptError(f"{self.title} finds nothing by itself: mark the object")
        height, width = embedding.features.shape[-2:]
        with clock.stage("decode"), self._encodes.attended():
            tokens, dense = prompt.tokens.to(self.device), prompt.dense.to(self.device)
            logits, scores, *_ = self.runtime.decode(embedding.levels, tokens, dense.expand(-1, -1, height, width))
        low_res = logits[:, :1]
        packed = self._packed(low_res, embedding.image_size)
        return Prediction(packed=packed, scores=scores[0, :1].cpu().numpy(), low_res_logits=low_res[0].cpu().numpy())

    def encode(self, image: np.ndarray) -> Embedding:
        """Return the image's embedding, from the cache if it is there.

        Args:
            image: ``(H, W, 3)`` uint8 RGB (grey replicated), after windowing.

        Raises:
            ValueError: If the image has another shape or dtype.
            TimeLimitError: If the current clock's time is up, or its client has disconnected, and no other request
                waits for this embedding.
            WorkersUnavailableError: If no worker can encode now. Work that gives way is tried again until its time is
                up, for else all that is left of a batch would fail in a moment.
        """
        key, clock = self._key(image), current_clock()
        is_awaited = partial(self._cache.is_awaited, key)

        def must_stop() -> bool:
            return not is_awaited() and (clock.is_over or (clock.gives_way and self._encodes.must_stop()))

        def encode() -> Embedding:
            return self._encodes.run(lambda: self._encode(image, key, must_stop), is_awaited)

        while True:
            try:
                return self._cache.get_or_compute(key, encode)
            except PreemptedError:
                clock.check()
                raise
            except WorkersRefusedError:
                raise
            except WorkersUnavailableError:
                if not clock.gives_way or clock.remaining < _TRY_AGAIN_AFTER_S:
                    raise
                time.sleep(_TRY_AGAIN_AFTER_S)
                clock.check()

    @property
    def helpers(self) -> int:
        """How many images others can encode while this process does something else."""
        return 0 if self._workers is None else self._workers.count

    def known_embedding(self, image: np.ndarray) -> Embedding | None:
        """Return the image's embedding if it is in memory; arguments and errors as of :meth:`encode`."""
        return self._cache.find(self._key(image))

    def prefetch_embedding(self, owner: str, frames: Sequence[Callable[[], np.ndarray | None]]) -> None:
        """Encode images in the background, in this order, before a user clicks on them.

        Runs only while the device is free; when a click needs the device, the encode stops and starts again later.

        Args:
            owner: The user; images of an earlier call for the same owner that are not yet encoded are skipped.
            frames: Each returns an image as :meth:`encode` takes it, or None if it is not needed any more. Those that
                are equal return the same: one that is being encoded goes on if it is listed again.
        """
        self._encodes.run_prefetch(owner, [_PrefetchOf(self, frame) for frame in frames])

    def prefetch(self, frame: Callable[[], np.ndarray | None], should_stop: ShouldStop) -> None:
        """Encode one image ahead, see :meth:`prefetch_embedding`; runs in the queue's thread."""
        image = frame()
        if image is None:
            return
        key = self._key(image)

        def must_stop() -> bool:
            return not self._cache.is_awaited(key) and should_stop()

        with suppress(WorkersUnavailableError):  # a later click there reports it
            self._cache.prefetch(key, lambda: self._encode(image, key, must_stop))

    def model_input(self, image: np.ndarray) -> torch.Tensor:
        """Convert ``(H, W, 3)`` uint8 to the encoder's input, ``(1, 3, S, S)`` float32."""
        return self.preprocessor.image(image)

    @property
    def encoding_key(self) -> str:
        """What, besides an image, its embedding depends on: model, weights, runtime and precision."""
        parts = self.spec.name, self.spec.encoding, self._encoder_sha256, self.runtime.key
        return "|".join(filter(None, parts))

    def _key(self, image: np.ndarray) -> str:
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or 0 in image.shape:
            raise ValueError(f"the image must be (H, W, 3) uint8, not {image.shape} {image.dtype}")
        return embedding_key(image, self.encoding_key)

    def _encode(self, image: np.ndarray, key: str, should_stop: ShouldStop = never) -> Embedding:
        """Encode an image; runs in the queue's thread."""
        with current_clock().stage("encode"):
            if self._workers is not None:
                features, *finer = self._workers.encode(image, should_stop)
            else:
                features, *finer = self.runtime.encode(self.model_input(image), should_stop)
        return Embedding(features, image_size=(image.shape[0], image.shape[1]), key=key, finer=tuple(finer))

    def on_device(self, work: Callable[[], T]) -> T:
        """Run work that uses the whole device when its turn comes, and return its result.

        Raises:
            TimeLimitError: If the current clock's time is up before the device is free.
        """
        return self._queue.run(work)

    def decode(self, embedding: Embedding, objects: Sequence[Prompts], *, multimask: bool = False) -> list[Prediction]:
        """Return the masks of each object on an encoded image.

        Args:
            embedding: From this predictor's :meth:`encode`.
            objects: One set of prompts per object.
            multimask: Three candidates per object instead of one: for a single ambiguous point.

        Returns:
            One prediction per object, in the same order.

        Raises:
            PromptError: If a prompt is outside the image, or of a kind that the model was not trained with.
            TimeLimitError: If the current clock's time is up.
        """
        inside = [self.on_image(prompts, embedding.image_size) for prompts in objects]
        predictions: list[Prediction] = []
        clock = current_clock()
        for batch in _batches(inside, self.runtime.decode_batch):
            with clock.stage("decode"), self._encodes.attended():
                predictions.extend(self._decode_batch(embedding, batch, multimask))
        size = embedding.image_size
        return [
            self.enclosed(size, found.scores, found.low_res_logits, prompts) if prompts.encloses else found
            for found, prompts in zip(predictions, objects, strict=True)
        ]

    def enclosed(
        self, size: tuple[int, int], scores: np.ndarray, low_res_logits: np.ndarray, prompts: Prompts
    ) -> Prediction:
        """Return what is found within a lasso; background points within it say more than its core.

        Args:
            size: ``(height, width)`` of the image.
            scores: ``(C,)`` float32.
            low_res_logits: ``(C, S, S)`` float32, before the lasso bounds them.
            prompts: The lasso's, with its area.
        """
        assert prompts.area is not None
        grid, with_core = self.logits_grid(size), BACKGROUND not in prompts.labels
        logits = [grid.enclosed(one, prompts.area, with_core=with_core) for one in low_res_logits]
        return self.restore(size, scores, np.stack(logits))

    def on_image(self, prompts: Prompts, size: tuple[int, int]) -> Prompts:
        """Return the prompts as the decoder takes them: inside the image, with an area as mask logits.

        An area that only adds to a box or point is left out for a model that was not trained with masks.

        Args:
            prompts: A user's.
            size: ``(height, width)`` of the image.

        Raises:
            PromptError: If one is outside the image, or of a kind that the model was not trained with.
        """
        height, width = size
        self._check_kinds(prompts)
        inside = prompts.within(width, height)
        if inside.area is None:
            return inside
        logits = self.logits_grid(size).area_logits(inside.area) if "mask" in self.spec.prompts else None
        return replace(inside, area=None, mask_logits=logits)

    def _check_kinds(self, prompts: Prompts) -> None:
        name, kinds = self.spec.name, self.spec.prompts
        if prompts.box is not None and "box" not in kinds:
            raise PromptError(f"{name} is for points alone, without a box")
        if len(prompts.points) and not self.spec.takes_points:
            raise PromptError(
                f"{name} is for boxes alone, without points: mark the object by one box, "
                "or choose a model that takes points"
            )
        if prompts.mask_logits is not None and "mask" not in kinds:
            raise PromptError(f"{name} does not start from an earlier mask")
        if prompts.is_area_alone and "mask" not in kinds:
            raise PromptError(f"{name} does not start from an area: mark the object by {' or '.join(kinds)}, too")
        side = self.logits_side
        if prompts.mask_logits is not None and prompts.mask_logits.shape[0] != side:
            raise PromptError(f"mask logits for {name} are {side}×{side}, not {prompts.mask_logits.shape}")

    @property
    def logits_side(self) -> int:
        """S, the side of the low-resolution logits: four for each place of an embedding, 256 for most models."""
        return int(self.prompt_encoder.mask_input_size[0])

    def restore(self, size: tuple[int, int], scores: np.ndarray, low_res_logits: np.ndarray) -> Prediction:
        """Return the prediction of an earlier :meth:`decode`, rebuilt from its stored scores and logits.

        Args:
            size: ``(height, width)`` of the image.
            scores: ``(C,)`` float32.
            low_res_logits: ``(C, S, S)`` float32.
        """
        logits = self._tensor(low_res_logits)[None]
        packed = self._packed(logits, size)
        return Prediction(packed=packed, scores=scores, low_res_logits=low_res_logits)

    def _decode_batch(self, embedding: Embedding, batch: Sequence[Prompts], multimask: bool) -> Iterator[Prediction]:
        low_res, scores = self.decode_logits(embedding, batch, multimask=multimask)
        order = torch.argsort(scores, dim=1, descending=True, stable=True)
        for index in range(len(batch)):
            ranks = order[index]
            yield Prediction(
                packed=self._packed(low_res[index, ranks][None], embedding.image_size),
                scores=scores[index, ranks].cpu().numpy(),
                low_res_logits=low_res[index, ranks].cpu().numpy(),
            )

    def _packed(self, low_res_logits: torch.Tensor, image_size: tuple[int, int]) -> tuple[PackedMask, ...]:
        """Convert ``(1, C, S, S)`` logits to packed masks, one at a time: unpacked they have the image's size."""
        return tuple(
            PackedMask.of(self.masks(low_res_logits[:, rank : rank + 1], image_size)[0, 0].cpu().numpy())
            for rank in range(low_res_logits.shape[1])
        )

    @torch.inference_mode()
    def decode_logits(
        self, embedding: Embedding, batch: Sequence[Prompts], *, multimask: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return low-resolution logits and scores of objects whose prompts have the same form, in one pass.

        Args:
            embedding: From this predictor's :meth:`encode`.
            batch: B objects inside the image, all with the same number of points, and all or none with a box or logits.
            multimask: Three candidates instead of one.

        Returns:
            ``(B, C, S, S)`` float32 logits and ``(B, C)`` float32 predicted IoU, in the model's own order.
        """
        return self._run_decoder(embedding, *self._prompt_tensors(batch, embedding.image_size), multimask)

    @torch.inference_mode()
    def prompt_embeddings(
        self, batch: Sequence[Prompts], image_size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the prompt encoder's tokens ``(B, N, C)`` and dense embedding ``(B, C, h, w)`` of B objects.

        Args:
            batch: As for :meth:`decode_logits`.
            image_size: ``(height, width)`` of the image.
        """
        points, boxes, logits = self._prompt_tensors(batch, image_size)
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=logits)
        return sparse, dense

    def _prompt_tensors(
        self, batch: Sequence[Prompts], size: tuple[int, int]
    ) -> tuple[tuple[torch.Tensor, torch.Tensor] | None, torch.Tensor | None, torch.Tensor | None]:
        """Return points ``(B, N, 2)`` with labels ``(B, N)``, boxes ``(B, 4)`` and logits, in the model's input."""
        points = boxes = logits = None
        if len(batch[0].points):
            xy = np.stack([self.preprocessor.coordinates(prompts.points, size) for prompts in batch])
            labels = np.stack([prompts.labels for prompts in batch])
            points = (self._tensor(xy), torch.as_tensor(labels, dtype=torch.int, device=self.device))
        if batch[0].box is not None:
            corners = np.stack([prompts.box.reshape(2, 2) for prompts in batch if prompts.box is not None])
            boxes = self._tensor(self.preprocessor.coordinates(corners, size).reshape(-1, 4))
        if batch[0].mask_logits is not None:
            stacked = np.stack([prompts.mask_logits for prompts in batch if prompts.mask_logits is not None])
            logits = self._tensor(stacked[:, None])
        return points, boxes, logits

    @property
    def prompt_encoder(self) -> Any:
        """The network of prompts, on PyTorch."""
        return self.module.prompt_encoder

    @staticmethod
    def networks(module: Any) -> Networks:
        """Return the networks of this kind of model that a runtime runs; those of prompts are run by the predictor."""
        image_pe = module.prompt_encoder.get_dense_pe().detach()
        return Networks(module.image_encoder, module.mask_decoder, image_pe, int(module.image_encoder.img_size))

    def _run_decoder(
        self,
        embedding: Embedding,
        points: tuple[torch.Tensor, torch.Tensor] | None,
        boxes: torch.Tensor | None,
        logits: torch.Tensor | None,
        multimask: bool,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode B objects: points ``(B, N, 2)``, labels ``(B, N)``, boxes ``(B, 4)``, logits ``(B, 1, S, S)``."""
        sparse, dense = self.prompt_encoder(points=points, boxes=boxes, masks=logits)
        masks, scores = self.runtime.decode(embedding.levels, sparse, dense)
        chosen = slice(1, None) if multimask else slice(0, 1)
        return masks[:, chosen], scores[:, chosen]

    def logits_grid(self, image_size: tuple[int, int]) -> LogitsGrid:
        """Return the position of the low-resolution logits on an image of this ``(height, width)``."""
        height, width = image_size
        corner = self.preprocessor.coordinates(np.array([[width, height]], dtype=np.float64), image_size)[0]
        cells_per_pixel = self.logits_side / self.preprocessor.input_size * corner / (width, height)
        return LogitsGrid(image_size, (float(cells_per_pixel[0]), float(cells_per_pixel[1])), self.logits_side)

    def masks(self, low_res_logits: torch.Tensor, image_size: tuple[int, int]) -> torch.Tensor:
        """Convert ``(B, C, S, S)`` logits to bool masks ``(B, C, H, W)`` of an image of ``(height, width)``."""
        return self.preprocessor.masks(low_res_logits, image_size)

    def _tensor(self, array: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(array, dtype=torch.float, device=self.device)


def _batches(objects: Sequence[Prompts], max_objects: int) -> Iterator[list[Prompts]]:
    """Yield runs of consecutive objects of the same form, bounded in their objects and in their points."""

    def form(prompts: Prompts) -> tuple[int, bool, bool]:
        return len(prompts.points), prompts.box is not None, prompts.mask_logits is not None

    batch: list[Prompts] = []
    for prompts in objects:
        max_length = min(max_objects, max(1, _MAX_DECODE_POINTS // max(1, len(prompts.points))))
        if batch and (len(batch) >= max_length or form(prompts) != form(batch[0])):
            yield batch
            batch = []
        batch.append(prompts)
    if batch:
        yield batch
