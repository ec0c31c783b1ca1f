"""What runs in a worker: the models' image encoders, for one image at a time. No part of it knows whose image it is."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lib.base.clock import PreemptedError
from lib.sam.device_queue import lower_priority
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointError
from lib.sam.models.registry import ModelSpec
from lib.sam.runtimes.openvino_ir import limit_threads
from lib.sam.runtimes.runtime import Precision, RuntimeUnavailableError
from lib.version import VERSION

DONE, REFUSED = "done", "refused"
"""First items of an answer; the second is the embedding's levels, or the reason."""

Answer = tuple[str, Any]


class EncoderReplica:
    """A worker; Ray Serve makes one in each of its processes.

    What is sent and answered has no types of this app, so that workers and servers of other versions understand it.

    Args:
        specs: The models, the default one first; that one is loaded at once, the others when they are asked for.
        model_folder: Where their checkpoints are; None: in this installation's model folder.
        precision: As for :class:`~lib.sam.engine.Engine`.
        cores: Number of threads.
    """

    def __init__(
        self, specs: Sequence[ModelSpec], model_folder: str | None, precision: Precision | None, cores: int
    ) -> None:
        limit_threads(cores)
        folder = Path(model_folder) if model_folder else MODEL_FOLDER
        self._engine = Engine(specs, folder, device="cpu", precision=precision, cache_bytes=0)
        # Lower, as the server's decodes come first where both share a machine; the threads of the networks inherit it.
        self._thread = ThreadPoolExecutor(1, "encoder", initializer=lower_priority)
        with suppress(CheckpointError, RuntimeUnavailableError):  # whoever asks is told why
            self._thread.submit(self._engine.published, self._engine.default_model).result()

    async def encode(
        self, version: str, model: str, checkpoint_sha256: str, runtime: str, inputs: np.ndarray
    ) -> Answer:
        """Encode one image, unless the server that asks has another version of the app or of the weights.

        If the call is cancelled, the encode is stopped, and the call ends when it has stopped.

        Args:
            version: The server's version of the app.
            model: Name of the model.
            checkpoint_sha256: SHA-256 of the server's weights, in hexadecimal.
            runtime: The key of the server's runtime.
            inputs: ``(1, 3, S, S)`` float32, preprocessed.

        Returns:
            :data:`DONE` and the levels, each ``(1, h, w, C)`` float32; or :data:`REFUSED` and why.
        """
        stop = threading.Event()
        work = partial(self._encode, version, model, checkpoint_sha256, runtime, inputs, stop.is_set)
        answer = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            stop.set()
            with suppress(PreemptedError):
                await answer
            raise

    def _encode(
        self,
        version: str,
        model: str,
        checkpoint_sha256: str,
        runtime: str,
        inputs: np.ndarray,
        should_stop: Callable[[], bool],
    ) -> Answer:
        if version != VERSION:
            return REFUSED, f"runs version {VERSION} of the app, and this server {version}: install one version on both"
        try:
            predictor = self._engine.published(model)
        except KeyError:
            return REFUSED, f"does not offer {model}"
        except (CheckpointError, RuntimeUnavailableError) as error:
            return REFUSED, f"cannot load {model}: {error}"
        if predictor.checkpoint_sha256 != checkpoint_sha256:
            return REFUSED, f"has other weights of {model} than this server: copy the same checkpoint to both"
        if predictor.runtime.key != runtime:
            return REFUSED, (
                f"runs {model} on {predictor.runtime.key}, and this server on {runtime}: "
                "choose one for all with --conf precision float32"
            )
        levels = predictor.runtime.encode(torch.from_numpy(np.array(inputs)), should_stop)
        return DONE, [np.ascontiguousarray(level.permute(0, 2, 3, 1)) for level in levels]
