"""OpenVINO runtime for a CPU: the same networks in half of PyTorch's time or less."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from lib.base.clock import PreemptedError
from lib.sam.runtimes.openvino_ir import DECODER, ENCODER, compiled, openvino
from lib.sam.runtimes.runtime import Precision, RuntimeUnavailableError, never

_POLL_MS = 20
"""Interval at which an encode checks whether it must stop."""


class OpenVinoRuntime:
    """Runtime of one model's converted networks.

    Concurrency: only one thread may encode at a time. Decodes of several threads take turns, as each uses all cores.

    Args:
        folder: The networks' folder, see :mod:`lib.sam.runtimes.openvino_ir`.
        precision: The encoder's precision: ``float32`` or ``int8``.

    Raises:
        RuntimeUnavailableError: If OpenVINO cannot load them.
    """

    decode_batch = 4

    def __init__(self, folder: Path, precision: Precision = "float32") -> None:
        version = openvino().__version__.split("-")[0]
        self.name = f"OpenVINO {version}, CPU, {precision}"
        self.key = f"openvino {version} {precision}"
        core = openvino().Core()
        try:
            self._encoder = compiled(core, folder / ENCODER).create_infer_request()
            self._decoder = compiled(core, folder / DECODER).create_infer_request()
        except RuntimeError as error:
            raise RuntimeUnavailableError("OpenVINO cannot load its networks") from error
        self._decoding = threading.Lock()

    def encode(self, inputs: torch.Tensor, should_stop: Callable[[], bool] = never) -> tuple[torch.Tensor, ...]:
        """See :class:`~lib.sam.runtimes.runtime.Runtime`."""
        request = self._encoder
        request.start_async([np.ascontiguousarray(inputs.numpy())], share_inputs=True)
        while not request.wait_for(_POLL_MS):
            if should_stop():
                request.cancel()
                with suppress(RuntimeError):  # raised because it was cancelled
                    request.wait()
                raise PreemptedError("a click is waiting")
        request.wait()
        return (torch.from_numpy(request.get_output_tensor(0).data.copy()),)

    def decode(
        self, features: torch.Tensor, image_pe: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`~lib.sam.runtimes.runtime.Runtime`."""
        arrays = [np.ascontiguousarray(tensor.numpy()) for tensor in (features, image_pe, sparse, dense)]
        with self._decoding:
            masks, scores = self._decoder.infer(arrays, share_inputs=True).values()
            return torch.from_numpy(masks.copy()), torch.from_numpy(scores.copy())
