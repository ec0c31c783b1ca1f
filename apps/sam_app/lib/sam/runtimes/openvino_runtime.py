"""OpenVINO runtime for a CPU: the same networks in half of PyTorch's time or less."""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from lib.base.clock import PreemptedError
from lib.sam.runtimes.decoder_form import MAX_FOLDED_TOKENS
from lib.sam.runtimes.openvino_ir import DECODER, DECODER_MANY, ENCODER, PREPARATION, compiled, openvino
from lib.sam.runtimes.runtime import Precision, RuntimeUnavailableError, never

_POLL_MS = 20
"""Interval at which an encode checks whether it must stop."""


class OpenVinoRuntime:
    """Runtime of one model's converted networks.

    Concurrency: only one thread may encode at a time. Decodes of several threads take turns, as each uses all cores.

    Args:
        folder: The networks' folder, see :mod:`lib.sam.runtimes.openvino_ir`.
        precision: ``float32``, ``bfloat16``, or ``int8``, in which the decoder is float32.

    Raises:
        RuntimeUnavailableError: If OpenVINO cannot load them.
    """

    decode_batch = 1

    def __init__(self, folder: Path, precision: Precision = "float32") -> None:
        version = openvino().__version__.split("-")[0]
        self.name = f"OpenVINO {version}, CPU, {precision}"
        self.key = f"openvino {version} {precision}"
        self.folder, self._precision = folder, precision
        self._core = openvino().Core()
        self._preparation = self._load(PREPARATION, "float32") if (folder / PREPARATION).exists() else None
        self._encoder = self._load(ENCODER, precision)
        self._decoder = self._load(DECODER, precision)
        self._decoder_many = None if (folder / DECODER_MANY).exists() else self._decoder  # loaded when it is needed
        self._others: dict[str, Any] = {}  # by name, loaded when they are needed
        self._decoding = threading.Lock()

    def with_decoder(self, folder: Path) -> Self:
        """Return this runtime with the mask decoder of another folder; the encoder is the same one.

        Raises:
            RuntimeUnavailableError: If OpenVINO cannot load it.
        """
        other = copy(self)
        other.folder = folder
        other._decoder = other._load(DECODER, self._precision)
        other._decoder_many = None if (folder / DECODER_MANY).exists() else other._decoder
        other._others = {}
        other._decoding = threading.Lock()
        return other

    def _load(self, name: str, precision: Precision) -> Any:
        try:
            return compiled(self._core, self.folder / name, precision).create_infer_request()
        except RuntimeError as error:
            raise RuntimeUnavailableError("OpenVINO cannot load its networks") from error

    def encode(self, inputs: torch.Tensor, should_stop: Callable[[], bool] = never) -> tuple[torch.Tensor, ...]:
        """See :class:`~lib.sam.runtimes.runtime.Runtime`."""
        request = self._encoder
        request.start_async([self.prepared(inputs)], share_inputs=True)
        while not request.wait_for(_POLL_MS):
            if should_stop():
                request.cancel()
                with suppress(RuntimeError):  # raised because it was cancelled
                    request.wait()
                raise PreemptedError("a click is waiting")
        request.wait()
        levels = (torch.from_numpy(tensor.data) for tensor in request.output_tensors)
        return tuple(level.clone(memory_format=torch.channels_last) for level in levels)  # as the decoder takes them

    def prepared(self, inputs: torch.Tensor) -> np.ndarray:
        """Return what the network of the encoder takes; not to be kept beyond the next call."""
        pixels = np.ascontiguousarray(inputs)
        if self._preparation is None:
            return pixels
        self._preparation.infer([pixels], share_inputs=True)
        prepared: np.ndarray = self._preparation.get_output_tensor(0).data
        return prepared

    def decode(
        self, levels: Sequence[torch.Tensor], sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """See :class:`~lib.sam.runtimes.runtime.Runtime`."""
        places = [_places(level) for level in levels]
        results = [self._decode(places, sparse[n : n + 1], dense[n : n + 1]) for n in range(len(sparse))]
        return tuple(torch.cat(values) for values in zip(*results, strict=True))

    def _decode(self, places: Sequence[np.ndarray], sparse: torch.Tensor, dense: torch.Tensor) -> list[torch.Tensor]:
        """Decode one object."""
        is_uniform = dense.stride(2) == dense.stride(3) == 0  # as without an earlier mask
        prompt = np.ascontiguousarray(sparse), _places(dense[:, :, :1, :1] if is_uniform else dense)
        with self._decoding:
            outputs = self._decoder_for(sparse.shape[1]).infer([places[0], *prompt, *places[1:]], share_inputs=True)
            return [torch.from_numpy(values.copy()) for values in outputs.values()]

    def compute(self, network: str, *inputs: torch.Tensor) -> torch.Tensor:
        """See :class:`~lib.sam.runtimes.runtime.Runtime`."""
        if network not in self._others:
            self._others[network] = self._load(f"{network}.xml", self._precision)
        request = self._others[network]
        request.infer([np.ascontiguousarray(value) for value in inputs], share_inputs=True)
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    def _decoder_for(self, tokens: int) -> Any:
        """Return the decoder for this number of prompt tokens."""
        if tokens <= MAX_FOLDED_TOKENS:
            return self._decoder
        if self._decoder_many is None:
            self._decoder_many = self._load(DECODER_MANY, self._precision)
        return self._decoder_many


def _places(values: torch.Tensor) -> np.ndarray:
    """Return ``(1, C, h, w)`` as ``(1, h, w, C)``; without a copy if that is the layout in memory."""
    return np.ascontiguousarray(values.permute(0, 2, 3, 1))
