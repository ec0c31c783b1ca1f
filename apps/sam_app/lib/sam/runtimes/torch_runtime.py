"""PyTorch runtime: on a GPU, with fused attention and reduced precision; on a CPU if OpenVINO cannot be used."""

import threading
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, Self

import torch
from torch import nn

from lib.base.clock import PreemptedError
from lib.sam.runtimes.fused_attention import fuse_attention
from lib.sam.runtimes.runtime import Networks, Precision, RuntimeUnavailableError, all_masks, never

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class TorchRuntime:
    """Runtime of a model's PyTorch modules.

    On a GPU the attention of SAM's ViT is fused (see :mod:`~lib.sam.runtimes.fused_attention`), so that the matrix of
    scores is not written to its memory. On a CPU the attention of ``segment_anything`` is unchanged, so that masks are
    equal to ``SamPredictor``'s in every pixel.

    Args:
        encoder: ``(1, 3, S, S)`` to features, or to a sequence of them, the coarsest first.
        decoder: Does what :meth:`decode` does, with the same arguments; None for encoding alone.
        device: The device of both.
        precision: ``float32``; or ``bfloat16`` and ``float16`` by autocast.
        compiled: Whether to compile the encoder by ``torch.compile``: takes minutes once, then is faster on a GPU.
        others: The model's other networks by name.

    Raises:
        RuntimeUnavailableError: For a precision that this runtime does not support.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: Callable[[Sequence[torch.Tensor], torch.Tensor, torch.Tensor], tuple[torch.Tensor, ...]] | None,
        device: torch.device,
        precision: Precision = "float32",
        *,
        compiled: bool = False,
        others: Mapping[str, nn.Module] | None = None,
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
        self._others = others or {}

    @classmethod
    def of(cls, networks: Networks, device: torch.device, **options: Any) -> Self:
        """Return the runtime of a model's networks; ``options`` are :class:`TorchRuntime`'s."""
        decoder = partial(all_masks, networks.decoder, networks.image_pe)
        others = {name: other.module for name, other in networks.others.items()}
        return cls(networks.encoder, decoder, device, others=others, **options)

    def with_decoder(self, networks: Networks) -> Self:
        """Return this runtime with another mask decoder, and no networks beside it; the encoder is the same one."""
        other = copy(self)
        other._decoder = partial(all_masks, networks.decoder, networks.image_pe)
        other._others = {}
        return other

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
        self, levels: Sequence[torch.Tensor], sparse: torch.Tensor, dense: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """See :class:`~lib.sam.runtimes.runtime.Runtime`."""
        if self._decoder is None:
            raise TypeError("this runtime has no decoder")
        return self._decoder(levels, sparse, dense)

    @torch.inference_mode()
    def compute(self, network: str, *inputs: torch.Tensor) -> torch.Tensor:
        """See :class:`~lib.sam.runtimes.runtime.Runtime`."""
        output: torch.Tensor = self._others[network](*inputs)
        return output


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
