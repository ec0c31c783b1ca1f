"""What runs in a worker: the models' image encoders, for one image at a time. No part of it knows whose image it is."""

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import torch
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from lib.base.clock import PreemptedError
from lib.sam.device_queue import lower_priority
from lib.sam.engine import Engine
from lib.sam.models.checkpoints import MODEL_FOLDER, CheckpointError
from lib.sam.models.registry import ModelSpec
from lib.sam.runtimes.openvino_ir import limit_threads
from lib.sam.runtimes.runtime import Precision, RuntimeUnavailableError
from lib.version import VERSION
from lib.workers.wire import EncodeRequest, is_authorized, pack_levels, unpack_request

logger = logging.getLogger(__name__)


class RefusedError(RuntimeError):
    """This worker would encode otherwise than the server that asks; the message says how."""


class EncoderReplica:
    """A worker, in a process of its own; answers as :mod:`lib.workers.wire` says.

    Args:
        specs: The models, the default one first; that one is loaded at once, the others when they are asked for.
        model_folder: Where their checkpoints are; None: in this installation's model folder.
        precision: As for :class:`~lib.sam.engine.Engine`.
        cores: Number of threads.
        token: Who does not have it is refused.
    """

    def __init__(
        self,
        specs: Sequence[ModelSpec],
        model_folder: str | None,
        precision: Precision | None,
        cores: int,
        token: str,
    ) -> None:
        limit_threads(cores)
        self._token = token
        folder = Path(model_folder) if model_folder else MODEL_FOLDER
        self._engine = Engine(specs, folder, device="cpu", precision=precision, cache_bytes=0)
        # Lower, as the server's decodes come first where both share a machine; the threads of the networks inherit it.
        self._thread = ThreadPoolExecutor(1, "encoder", initializer=lower_priority)
        with suppress(CheckpointError, RuntimeUnavailableError):  # whoever asks is told why
            self._thread.submit(self._engine.published, self._engine.default_model).result()

    async def answer(self, request: Request) -> Response:
        """Encode one image; if the request is cancelled, the encode is stopped, and this ends when it has stopped."""
        if not is_authorized(request.headers, self._token):
            return PlainTextResponse("this worker is another server's: the token is wrong", 401)
        try:
            asked = unpack_request(request.headers, await request.body())
            headers, body = pack_levels(await self._encoded(asked))
        except (RefusedError, ValueError) as error:
            return PlainTextResponse(str(error), 409)
        except Exception as error:
            logger.exception("An encode failed")
            return PlainTextResponse(f"failed at the image: {type(error).__name__}", 422)
        return Response(body, headers=headers, media_type="application/octet-stream")

    async def _encoded(self, asked: EncodeRequest) -> Sequence[np.ndarray]:
        stop = threading.Event()
        work = partial(self._encode, asked, stop.is_set)
        answer = asyncio.get_running_loop().run_in_executor(self._thread, work)
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            stop.set()
            with suppress(PreemptedError):
                await answer
            raise

    def _encode(self, asked: EncodeRequest, should_stop: Callable[[], bool]) -> Sequence[np.ndarray]:
        """Return the levels, each ``(1, h, w, C)`` float32.

        Raises:
            RefusedError: If the server has another version of the app, other weights, or another runtime.
            PreemptedError: If ``should_stop`` returned True.
        """
        model = asked.model
        if asked.version != VERSION:
            raise RefusedError(
                f"runs version {VERSION} of the app, and this server {asked.version}: install one version on both"
            )
        try:
            predictor = self._engine.published(model)
        except KeyError:
            raise RefusedError(f"does not offer {model}") from None
        except (CheckpointError, RuntimeUnavailableError) as error:
            raise RefusedError(f"cannot load {model}: {error}") from None
        if predictor.checkpoint_sha256 != asked.checkpoint_sha256:
            raise RefusedError(f"has other weights of {model} than this server: copy the same checkpoint to both")
        if predictor.runtime.key != asked.runtime:
            raise RefusedError(
                f"runs {model} on {predictor.runtime.key}, and this server on {asked.runtime}: "
                "choose one for all with --conf precision float32"
            )
        with torch.inference_mode():
            levels = predictor.runtime.encode(predictor.model_input(asked.image), should_stop)
        return [level.permute(0, 2, 3, 1).numpy() for level in levels]
