"""The models of one process: each is loaded once, at first use or before; they share one embedding cache.

Concurrency: one lock guards loading, so that parallel first requests load a model once. It is held for seconds while
a large checkpoint is read; requests for loaded models do not take it.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from lib.sam.bfloat16 import in_bfloat16, is_known_to_agree
from lib.sam.device_queue import DeviceQueue
from lib.sam.embeddings.cache import EmbeddingCache
from lib.sam.embeddings.disk import EmbeddingFiles
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.registry import ModelSpec
from lib.sam.predictor import Predictor
from lib.sam.runtimes.choice import on_cpu, torch_precision
from lib.sam.runtimes.runtime import Precision, Runtime
from lib.sam.runtimes.torch_runtime import TorchRuntime
from lib.sam.sam2_predictor import predictor_class

logger = logging.getLogger(__name__)

ModelState = Literal["ready", "not loaded", "no checkpoint"]

DEFAULT_CACHE_BYTES = 1 << 30


class Engine:
    """Predictors by model name.

    Args:
        specs: The models to offer, the default one first.
        model_folder: Where their checkpoints are.
        device: Where to run; None: CUDA if there is a GPU, else the CPU.
        cache_bytes: Bound on the bytes of the embeddings in memory.
        precision: Precision of the networks; None: the fastest that suits the device and, on a CPU, whose masks agree
            with float32's.
        compiled: Whether PyTorch may compile the encoders, on a GPU.
        embedding_files: Stores embeddings on disk as well; None: they are stored only in memory.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        model_folder: Path,
        *,
        device: str | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        precision: Precision | None = None,
        compiled: bool = False,
        embedding_files: EmbeddingFiles | None = None,
    ) -> None:
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.specs = {spec.name: spec for spec in specs}
        self.cache = EmbeddingCache(cache_bytes, embedding_files, self.device)
        self._store = CheckpointStore(model_folder)
        self._loading = threading.Lock()
        self._folder = model_folder
        self.queue = DeviceQueue()
        self._precision = precision
        self._compiled = compiled
        self._predictors: dict[str, Predictor] = {}

    @property
    def default_model(self) -> str:
        """Name of the model for requests that name none."""
        return next(iter(self.specs))

    def predictor(self, name: str) -> Predictor:
        """Return a model's predictor; loads the model if necessary.

        Raises:
            KeyError: If the engine does not offer this model.
            CheckpointError: If its checkpoint is missing, changed or does not fit.
        """
        predictor = self._predictors.get(name)
        if predictor is not None:
            return predictor
        spec = self.specs[name]
        with self._loading:
            if name not in self._predictors:
                self._predictors[name] = self._load(spec)
            return self._predictors[name]

    def _load(self, spec: ModelSpec) -> Predictor:
        started = time.monotonic()
        module = spec.build()
        sha256 = self._store.load_into(module, spec)
        module = module.to(self.device).eval().requires_grad_(False)
        kind = predictor_class(spec)
        networks = kind.networks(module)
        runtime: Runtime | None = None
        precision = self._precision
        if self.device.type == "cpu":
            if precision is None and is_known_to_agree(spec, sha256, self._folder):
                precision = "bfloat16"
            runtime = on_cpu(spec, networks, sha256, self._folder, precision)
        if runtime is None:
            chosen = self._precision or torch_precision(self.device)
            runtime = TorchRuntime.of(networks, self.device, precision=chosen, compiled=self._compiled)
        predictor = kind(
            spec,
            module,
            checkpoint_sha256=sha256,
            cache=self.cache,
            device=self.device,
            queue=self.queue,
            runtime=runtime,
        )
        if precision is None:
            predictor = in_bfloat16(predictor, self._folder)
        if not isinstance(runtime, TorchRuntime):
            networks.drop_weights()
        logger.info("Loaded %s in %.1f s: %s", spec.name, time.monotonic() - started, predictor.runtime.name)
        return predictor

    def runtime_of(self, name: str) -> str | None:
        """Return the display name of a model's runtime; None while the model is not loaded."""
        predictor = self._predictors.get(name)
        return None if predictor is None else predictor.runtime.name

    def state(self, name: str) -> ModelState:
        """Return whether a model is in memory, can be loaded, or lacks its checkpoint."""
        if name in self._predictors:
            return "ready"
        return "not loaded" if self._store.path(self.specs[name]).is_file() else "no checkpoint"
