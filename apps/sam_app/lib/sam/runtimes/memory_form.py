"""SAM 2's memory: the networks that write and read it, and a form of the attention that OpenVINO can run.

:func:`memory_networks` has both, with the same weights.

``sam2/modeling/memory_attention.py`` and ``sam2/modeling/sam/transformer.py`` (facebookresearch/sam2, Apache-2.0; Ravi
et al. 2024, arXiv:2408.00714) rotate queries and keys as complex numbers, project the memory from 64 to 256 channels,
and take the average of projected values. Two things are done differently here, each exact in real numbers:

- The channels of a head are put into another order, first all real parts, then all imaginary ones, by changing the
  order of the projections' rows. A scalar product does not depend on it, and rotations become products of halves.
- The average of projected values is the projection of the average: the memory's 64 channels are averaged, and the
  projections of values and outputs, which are one matrix, are applied to the result.
"""

import math
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lib.sam.runtimes.runtime import OtherNetwork

MEMORY_ATTENTION, MEMORY_ENCODER = "memory_attention", "memory_encoder"


def memory_networks(module: Any) -> dict[str, OtherNetwork]:
    """Return the networks of a SAM 2's memory.

    Args:
        module: ``sam2.modeling.sam2_base.SAM2Base``, in evaluation mode.

    Returns:
        :data:`MEMORY_ATTENTION`, see :class:`MemoryAttentionForm`, and :data:`MEMORY_ENCODER`, see
        :class:`MemoryEncoder`.
    """
    side, channels, remembered = module.sam_image_embedding_size, module.hidden_dim, module.mem_dim
    device = module.device
    position = module.image_encoder.neck.position_encoding(torch.zeros(1, channels, side, side, device=device))
    memory_position = module.memory_encoder.position_encoding(torch.zeros(1, remembered, side, side, device=device))
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    def remembered_slices(slices: int, pieces: int) -> tuple[Tensor, ...]:
        memories, times = random(slices, side, side, remembered), random(slices, remembered)
        return random(1, side, side, channels), memories, times, random(pieces, remembered), random(pieces, remembered)

    encoder = MemoryEncoder(module.memory_encoder)
    return {
        MEMORY_ATTENTION: OtherNetwork(
            MemoryAttention(module.memory_attention, position, memory_position),
            partial(MemoryAttentionForm, module.memory_attention, position, memory_position),
            [remembered_slices(2, 8), remembered_slices(1, 0), remembered_slices(3, 64)],
            (None, "slices", "slices", "pieces", "pieces"),
        ),
        MEMORY_ENCODER: OtherNetwork(
            encoder,
            lambda: encoder,
            [(random(1, side, side, channels), random(1, 1, module.image_size, module.image_size))],
            (None, None),
        ),
    }


class MemoryEncoder(nn.Module):
    """SAM 2's memory encoder with channels last.

    Args:
        encoder: ``sam2.modeling.memory_encoder.MemoryEncoder``, in evaluation mode.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Return ``(1, h, w, c)`` for the features ``(1, h, w, C)`` and the scaled mask ``(1, 1, S, S)`` of a slice."""
        encoder: Any = self.encoder
        x = encoder.pix_feat_proj(features.permute(0, 3, 1, 2)) + encoder.mask_downsampler(mask)
        return cast(Tensor, encoder.out_proj(encoder.fuser(x))).permute(0, 2, 3, 1)


class MemoryAttention(nn.Module):
    """The forward of :class:`MemoryAttentionForm` by SAM 2's own module."""

    def __init__(self, attention: Any, position: Tensor, memory_position: Tensor) -> None:
        super().__init__()
        self.attention = attention
        self._position, self._memory_position = _places(position), _places(memory_position)

    def forward(self, features: Tensor, memories: Tensor, times: Tensor, pointers: Tensor, ages: Tensor) -> Tensor:
        """See :class:`MemoryAttentionForm`."""
        found: Tensor = self.attention(
            curr=features.flatten(0, 2)[:, None],
            curr_pos=self._position[:, None],
            memory=torch.cat([memories.flatten(0, 2), pointers])[:, None],
            memory_pos=torch.cat([(self._memory_position + times[:, None]).flatten(0, 1), ages])[:, None],
            num_obj_ptr_tokens=len(pointers),
        )
        return found[:, 0].view(features.shape)


class MemoryAttentionForm(nn.Module):
    """SAM 2's memory attention for one object on one slice.

    Args:
        attention: ``sam2.modeling.memory_attention.MemoryAttention``, in evaluation mode.
        position: ``(1, C, h, w)``: the positional encoding of the slice's features.
        memory_position: ``(1, c, h, w)``: that of a memory's features.
    """

    def __init__(self, attention: Any, position: Tensor, memory_position: Tensor) -> None:
        super().__init__()
        self.position: Tensor
        self.memory_position: Tensor
        self.register_buffer("position", 0.1 * _places(position))  # MemoryAttention adds a tenth of it
        self.register_buffer("memory_position", _places(memory_position))
        self.layers = nn.ModuleList(_Layer(layer) for layer in attention.layers)
        self.norm = attention.norm

    def forward(self, features: Tensor, memories: Tensor, times: Tensor, pointers: Tensor, ages: Tensor) -> Tensor:
        """Return the slice's features with what is remembered of other slices.

        Args:
            features: ``(1, h, w, C)``: the slice's embedding.
            memories: ``(M, h, w, c)``: what is remembered of M slices, M >= 1.
            times: ``(M, c)``: the encoding of the place in time of each of them.
            pointers: ``(P, c)``: the pointers to the object, in pieces of c channels; P >= 0.
            ages: ``(P, c)``: the encoding of their places in time.

        Returns:
            ``(1, h, w, C)``.
        """
        values = torch.cat([memories.flatten(0, 2), pointers])
        placed = memories.flatten(1, 2) + self.memory_position + times[:, None]
        x = features.flatten(0, 2) + self.position
        for layer in self.layers:
            x = layer(x, placed, pointers + ages, values)
        return cast(Tensor, self.norm(x)).view(features.shape)


class _Layer(nn.Module):
    """A layer of ``MemoryAttention``: attention to the slice's own places, to the memory, and a perceptron."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        own, remembered = layer.self_attn, layer.cross_attn_image
        self.norm1, self.norm2, self.norm3 = layer.norm1, layer.norm2, layer.norm3
        self.linear1, self.linear2 = layer.linear1, layer.linear2
        self.own_query, self.own_key = _halved(own.q_proj), _halved(own.k_proj)
        self.own_output = _joined(own)
        self.query, self.key = _halved(remembered.q_proj), _halved(remembered.k_proj)
        self.output = _joined(remembered)
        angles = own.freqs_cis  # (h * w, C / 2) complex
        self.cosine: Tensor
        self.sine: Tensor
        self.register_buffer("cosine", angles.real.contiguous())
        self.register_buffer("sine", angles.imag.contiguous())

    def forward(self, x: Tensor, memories: Tensor, pointers: Tensor, values: Tensor) -> Tensor:
        """Return the next layer's ``(L, C)``, for keys ``(M, L, c)`` and ``(P, c)`` and values ``(M * L + P, c)``."""
        own = self.norm1(x)
        x = x + self.own_output(_attended(self._rotated(self.own_query(own)), self._rotated(self.own_key(own)), own))
        query = self._rotated(self.query(self.norm2(x)))
        keys = torch.cat([self._rotated(self.key(memories)).flatten(0, 1), self.key(pointers)])
        x = x + self.output(_attended(query, keys, values))
        return cast(Tensor, x + self.linear2(F.relu(self.linear1(self.norm3(x)))))

    def _rotated(self, x: Tensor) -> Tensor:
        """Rotate ``(..., L, C)`` by each place's angles."""
        real, imaginary = x.chunk(2, -1)
        cosine, sine = self.cosine, self.sine
        return torch.cat([real * cosine - imaginary * sine, real * sine + imaginary * cosine], -1)


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention of one head: ``(L, C)``, ``(N, C)`` and ``(N, c)`` to ``(L, c)``."""
    scale = 1 / math.sqrt(query.shape[-1])
    return F.scaled_dot_product_attention(query[None, None], key[None, None], value[None, None], scale=scale)[0, 0]


def _halved(projection: nn.Linear) -> nn.Linear:
    """Return a projection whose channels are the even ones of the given one, then the odd ones."""
    weight, bias = projection.weight.detach(), projection.bias.detach()
    return _linear(torch.cat([weight[0::2], weight[1::2]]), torch.cat([bias[0::2], bias[1::2]]))


def _joined(attention: Any) -> nn.Linear:
    """Return the projections of an attention's values and of its output as one, for a single head."""
    values, output = attention.v_proj, attention.out_proj
    weight = output.weight.detach().double() @ values.weight.detach().double()
    bias = output.weight.detach().double() @ values.bias.detach().double() + output.bias.detach()
    return _linear(weight.float(), bias.float())


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    linear.weight, linear.bias = nn.Parameter(weight, requires_grad=False), nn.Parameter(bias, requires_grad=False)
    return linear


def _places(values: Tensor) -> Tensor:
    """Return ``(1, C, h, w)`` as ``(h * w, C)``."""
    return values.detach().flatten(2)[0].T.contiguous()
