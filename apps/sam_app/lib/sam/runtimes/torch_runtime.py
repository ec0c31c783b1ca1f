"""PyTorch runtime: on a GPU, with fused attention and reduced precision; on a CPU if OpenVINO cannot be used."""

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lib.base.clock import PreemptedError
from lib.sam.runtimes.fused_attention import fuse_attention
from lib.sam.runtimes.runtime import Precision, RuntimeUnavailableError, never

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchRuntime:
    """Runtime of a model's PyTorch modules.

    On a GPU the attention of SAM's ViT is fused (see :mod:`~lib.sam.runtimes.fused_attention`), so that the matrix of
    scores is not written to its memory. On a CPU the attention of ``segment_anything`` is unchanged, so that masks are
    equal to ``SamPredictor``'s in every pixel.

    Args:
        encoder: ``(1, 3, S, S)`` to features, or to a sequence of them, the coarsest first.
        decoder: Does what :meth:`decode` does, with the same arguments; None if the predictor decodes without the
            runtime.
        device: The device of both.
        precision: ``float32``; or ``bfloat16`` and ``float16`` by autocast.
        compiled: Whether to compile the encoder by ``torch.compile``: takes minutes once, then is faster on a GPU.

    Raises:
        RuntimeUnavailableError: For a precision that this runtime does not support.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None,
        device: torch.device,
        precision: Precision = "float32",
        *,
        compiled: bool = False,
    ) -> None:
        if precision not in ("float32", *_AUTOCAST):
            raise RuntimeUnavailableError(f"PyTorch runs float32, {', '.join(_AUTOCAST)}; not {precision}")
        is_gpu = device.type != "cpu"
        self.name = f"torch {torch.__version__}, {_device_name(device)}, {precision}"
        self.key = f"torch {device.type} {precision}{' fused' if is_gpu else ''}"
        self.decode_batch = 64 if is_gpu else 4
        self._device = device
        self._autocast = _AUTOCAST.get(precision)
        if is_gpu:
            fuse_attention(encoder)
        self._stop = threading.local()
        for modules in filter(lambda module: isinstance(module, nn.ModuleList), encoder.modules()):
            for block in modules.children():  # before each of which the encoder can be stopped
                block.register_forward_pre_hook(self._raise_if_preempted)
        self._encoder: Callable[[torch.Tensor], Any] = torch.compile(encoder) if compiled else encoder
        self._decoder = decoder

    def _raise_if_preempted(self, module: nn.Module, inputs: object) -> None:
        if getattr(self._stop, "should_stop", never)():
            raise PreemptedError("a click is waiting")

    @torch.inference_mode()
    def encode(self, inputs: torch.Tensor, should_stop: Callable[[], bool] = never) -> tuple[torch.Tensor, ...]:
        """See :class:`~lib.sam.runtimes.runtime.Runtime`; also for a batch ``(B, 3, S, S)``."""
        self._stop.should_stop = should_stop
        try:
            with torch.autocast(self._device.type, dtype=self._autocast, enabled=self._autocast is not None):
                features = self._encoder(inputs.to(self._device))
        finally:
            del self._stop.should_stop
        levels = (features,) if isinstance(features, torch.Tensor) else tuple(features)
        return tuple(level.float() for level in levels)

    @torch.inference_mode()
    def decode(
        self, features: torch.Tensor, sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`~lib.sam.runtimes.runtime.Runtime`."""
        if self._decoder is None:
            raise TypeError("this model is decoded by its predictor")
        return self._decoder(features, sparse, dense)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
