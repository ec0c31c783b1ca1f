"""The models of one process: each is loaded once, at first use or before; they share one embedding cache.

Concurrency: one lock guards loading, so that parallel first requests load a model once. It is held for seconds while
a large checkpoint is read; requests for loaded models do not take it. Another version is loaded by a thread of its own,
one at a time, and then takes the place of the present one in one step; requests that are being answered finish with the
one they began with.
"""

import copy
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from lib.base.threads import start_watched
from lib.sam.bfloat16 import in_bfloat16, is_known_to_agree
from lib.sam.device_queue import DeviceQueue
from lib.sam.embeddings.cache import EmbeddingCache
from lib.sam.embeddings.disk import EmbeddingFiles
from lib.sam.models.checkpoints import CheckpointStore
from lib.sam.models.overlay import OverlayError
from lib.sam.models.registry import ModelSpec
from lib.sam.models.versions import AUTO, Stamp, Version, VersionError, VersionStore
from lib.sam.predictor import Predictor
from lib.sam.runtimes.choice import on_cpu, torch_precision, with_decoder
from lib.sam.runtimes.remote import RemoteEncoder, Workers
from lib.sam.runtimes.runtime import Precision, Runtime, RuntimeUnavailableError
from lib.sam.runtimes.torch_runtime import TorchRuntime
from lib.sam.sam2_predictor import predictor_class

logger = logging.getLogger(__name__)

ModelState = Literal["ready", "not loaded", "no checkpoint"]

DEFAULT_CACHE_BYTES = 1 << 30


def chosen_device(device: str | None) -> torch.device:
    """Return the device with this name; for None a GPU if there is one, else the CPU."""
    return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))


@dataclass(frozen=True, eq=False)
class _Served:
    """What answers for a name, and the stamp of the versions when it was chosen."""

    predictor: Predictor
    stamp: Stamp


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
        workers: Encode images instead of this process, which goes on to decode; None: it does both.
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
        workers: Workers | None = None,
    ) -> None:
        self.device = chosen_device(device)
        self.specs = {spec.name: spec for spec in specs}
        self.cache = EmbeddingCache(cache_bytes, embedding_files, self.device)
        self._store = CheckpointStore(model_folder)
        self._loading = threading.Lock()
        self.model_folder = model_folder
        self.queue = self.encodes = DeviceQueue()
        self.workers = workers
        if workers is not None:
            self.encodes = encodes = DeviceQueue(
                width=lambda: workers.capacity,
                ahead_width=lambda: workers.running,
                elsewhere=lambda: workers.elsewhere,
            )
            workers.demand = encodes.requests
        self._precision = precision
        self._compiled = compiled
        self._predictors: dict[str, Predictor] = {}
        self.versions = VersionStore(model_folder)
        self._served: dict[str, _Served] = {}
        self._swapping = threading.Lock()

    @property
    def encodes_at_once(self) -> int:
        """How many images can be encoded at the same time, at least 1; changes with the number of workers."""
        return max(1, self.workers.wanted) if self.workers else 1

    @property
    def default_model(self) -> str:
        """Name of the model for requests that name none."""
        return next(iter(self.specs))

    def predictor(self, name: str) -> Predictor:
        """Return the predictor of a model, or of a label that one has learned to find; loads it if necessary.

        It is that of the served version, see :mod:`lib.sam.models.versions`. When another one is to be served, it is
        loaded in the background, and the present one answers until then; a version that cannot be loaded is not served.

        Args:
            name: A model's, or ``auto_<label>``.

        Raises:
            KeyError: If the engine does not offer this model, or no version of what it learned is served.
            CheckpointError: If its checkpoint is missing, changed or does not fit.
            VersionError: If the version cannot be used, and there is none to take its place.
        """
        stamp = self.versions.stamp(name)
        served = self._served.get(name)
        if served is None:
            with self._loading:
                served = self._served.get(name) or self._serve(name, stamp)
        elif served.stamp != stamp and self._swapping.acquire(blocking=False):
            start_watched("model-swap", lambda: self._swap(name, stamp))
        return served.predictor

    def _swap(self, name: str, stamp: Stamp) -> None:
        """Load what is to be served from now on; runs in a thread of its own, and holds ``_swapping``."""
        try:
            with self._loading, suppress(VersionError):
                self._serve(name, stamp)
        finally:
            self._swapping.release()

    def _serve(self, name: str, stamp: Stamp) -> _Served:
        """Load what is to be served; if that fails, what was served before stays."""
        before = self._served.get(name)
        try:
            predictor = self._learned(name)
        except (VersionError, OverlayError, RuntimeUnavailableError) as error:
            logger.error("What was learned for %s is not served: %s", name, error)
            if before is None and name not in self.specs:
                raise
            predictor = before.predictor if before else self.published(name)
        if predictor is None:
            if name.startswith(AUTO) and name not in self.specs:
                self._served.pop(name, None)
                raise VersionError(f"nothing that was learned is served as {name}")
            predictor = self.published(name)
        self._served[name] = served = _Served(predictor, stamp)
        return served

    def published(self, name: str) -> Predictor:
        """Return the predictor of a model with the weights of its checkpoint; not for several threads at once."""
        spec = self.specs[name]
        if name not in self._predictors:
            self._predictors[name] = self._load(spec)
        return self._predictors[name]

    def _learned(self, name: str) -> Predictor | None:
        """Return the predictor of the version that is to be served; None if none is.

        Raises:
            VersionError: If it is damaged, or was learned on other weights than the model's.
            RuntimeUnavailableError: If it cannot be converted.
        """
        number = self.versions.served(name)
        if number is None:
            return None
        started = time.monotonic()
        version = self.versions.get(name, number)
        model = str(version.manifest.get("model"))
        if model not in self.specs:
            raise VersionError(f"{version.title} was learned by {model}, which is not offered here")
        published = self.published(model)
        if version.manifest.get("checkpoint_sha256") != published.checkpoint_sha256:
            raise VersionError(f"{version.title} was learned on other weights of {model}: train it again")
        overlay = self.versions.overlay(version)
        networks = published.networks(published.module)
        decoder = copy.deepcopy(networks.decoder)
        overlay.apply(decoder)
        networks = replace(networks, decoder=decoder.to(self.device).eval().requires_grad_(False))
        sha256 = str(version.manifest["sha256"])
        runtime = with_decoder(published.runtime, published.spec, networks, version.title, sha256, self.model_folder)
        logger.info("Loaded %s in %.1f s", version.title, time.monotonic() - started)
        return published.as_version(version, runtime, overlay.prompt)

    def automatic(self) -> dict[str, Version]:
        """Return what is served and finds a label by itself, by its name ``auto_<label>``."""
        found = {}
        for name in self.versions.names():
            if name.startswith(AUTO) and self.versions.stamp(name) is not None:
                with suppress(VersionError):
                    number = self.versions.served(name)
                    version = None if number is None else self.versions.get(name, number)
                    if version and version.manifest.get("model") in self.specs:
                        found[name] = version
        return found

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
            if precision is None and is_known_to_agree(spec, sha256, self.model_folder):
                precision = "bfloat16"
            runtime = on_cpu(spec, networks, sha256, self.model_folder, precision)
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
            predictor = in_bfloat16(predictor, self.model_folder)
        if not isinstance(runtime, TorchRuntime):
            networks.drop_weights()
        if self.workers is not None:
            encoder = RemoteEncoder(self.workers, spec.name, sha256, predictor.runtime.key)
            predictor = predictor.with_workers(encoder, self.encodes)
        logger.info("Loaded %s in %.1f s: %s", spec.name, time.monotonic() - started, predictor.runtime.name)
        return predictor

    def runtime_of(self, name: str) -> str | None:
        """Return the display name of a model's runtime; None while the model is not loaded."""
        served = self._served.get(name)
        return None if served is None else served.predictor.runtime.name

    def state(self, name: str) -> ModelState:
        """Return whether a model is in memory, can be loaded, or lacks its checkpoint."""
        if name in self._served:
            return "ready"
        return "not loaded" if self._store.path(self.specs[name]).is_file() else "no checkpoint"
