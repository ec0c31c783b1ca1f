"""SAM's mask decoder in a form that takes less time on a CPU: the same weights and, but for rounding, the same masks.

The time of SAM's decoder (Kirillov et al. 2023, arXiv:2304.02643; ``segment_anything/modeling/mask_decoder.py``) goes
into products with the 4,096 places of the image embedding, and into changing the order of values in memory. Three
things are done differently here, each exact in real numbers:

- Attention between few tokens and many places: ``(t Wq) (x Wk)^T`` is computed as ``((t Wq) Wk^T) x^T``, so that the
  places are multiplied with a few vectors per head instead of being projected; likewise for values and outputs. With
  many tokens that costs more, and the places are projected as in SAM: see :data:`MAX_FOLDED_TOKENS`.
- Places keep their channels together in memory. A transposed convolution without overlap is one matrix product for each
  place, so only the masks, not the upscaled features, are brought into the order of the image's pixels.
- The positional encoding of the image is a constant; a dense prompt that is the same everywhere is one vector.
"""

from collections.abc import Callable
from typing import Any, cast

import torch
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from lib.sam.runtimes.runtime import all_masks

MAX_FOLDED_TOKENS = 12
"""Number of prompt tokens up to which folded attention takes less time, as measured with and without AVX512_BF16."""

Attend = Callable[[Any, Tensor, Tensor, Tensor], Tensor]


def decoder_forms(decoder: Any, image_pe: Tensor) -> tuple[nn.Module, nn.Module | None]:
    """Return the forms of a decoder to be converted: for few prompt tokens, and for more.

    Args:
        decoder: With the ``predict_masks`` of SAM or SAM 2; in evaluation mode.
        image_pe: ``(1, C, h, w)``: the positional encoding of the image.

    Returns:
        Modules with the forward of :class:`PlacesDecoder`; None as the second if the first is for any number of tokens.
    """
    kind = Sam2PlacesDecoder if hasattr(decoder, "obj_score_token") else SamPlacesDecoder
    if kind is SamPlacesDecoder and not isinstance(decoder, MaskDecoder):
        return PlacesDecoder(decoder, image_pe), None
    return kind(decoder, image_pe, is_folded=True), kind(decoder, image_pe, is_folded=False)


class PlacesDecoder(nn.Module):
    """A mask decoder for one object, whose inputs have their channels last.

    Args:
        decoder: With SAM's ``predict_masks``.
        image_pe: ``(1, C, h, w)``: the positional encoding of the image.
    """

    def __init__(self, decoder: Any, image_pe: Tensor) -> None:
        super().__init__()
        self.decoder = decoder
        self.image_pe: Tensor
        self.register_buffer("image_pe", image_pe)

    def forward(self, features: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, ...]:
        """Return all masks and their scores.

        Args:
            features: ``(1, h, w, C)``: the image's embedding.
            sparse: ``(1, N, C)``: the prompt's tokens.
            dense: ``(1, h, w, C)``, or ``(1, 1, 1, C)`` for the same vector everywhere.

        Returns:
            ``(1, 4, 4h, 4w)`` logits and ``(1, 4)`` predicted IoU.
        """
        height, width = features.shape[1:3]
        everywhere = dense.permute(0, 3, 1, 2).expand(1, -1, height, width)
        return all_masks(self.decoder, self.image_pe, [features.permute(0, 3, 1, 2)], sparse, everywhere)


class SamPlacesDecoder(nn.Module):
    """:class:`PlacesDecoder` for the decoder of ``segment_anything``, with its weights.

    Args:
        decoder: The decoder; in evaluation mode.
        image_pe: ``(1, C, h, w)``.
        is_folded: Whether attention between tokens and places is folded, for few tokens.
    """

    def __init__(self, decoder: Any, image_pe: Tensor, *, is_folded: bool) -> None:
        super().__init__()
        self.decoder = decoder
        self.position: Tensor
        self.register_buffer("position", image_pe.flatten(2)[0].T.contiguous())
        self._to_places: Attend = _few_to_many if is_folded else _projected
        self._to_tokens: Attend = _many_to_few if is_folded else _projected

    def forward(self, features: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`PlacesDecoder`."""
        decoder: Any = self.decoder
        prompt = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight, sparse[0]])
        tokens, places = self._transformed(prompt, (features + dense)[0].flatten(0, 1))
        weights = self._mask_weights(tokens[1 : 1 + decoder.num_mask_tokens])
        masks = _in_image_order(_upscaled(decoder.output_upscaling, places) @ weights.T, features.shape[1:3])
        return masks[None], decoder.iou_prediction_head(tokens[:1])

    def _mask_weights(self, tokens: Tensor) -> Tensor:
        """Return for each mask's token ``(M, C)`` the weights ``(M, C / 8)`` of the upscaled features."""
        networks = zip(self.decoder.output_hypernetworks_mlps, tokens, strict=True)
        return torch.stack([network(token[None])[0] for network, token in networks])

    def _transformed(self, prompt: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Run SAM's two-way transformer for tokens ``(T, C)`` and places ``(L, C)``."""
        transformer: Any = self.decoder.transformer
        tokens = prompt
        for layer in transformer.layers:
            if layer.skip_first_layer_pe:
                tokens = _projected(layer.self_attn, tokens, tokens, tokens)
            else:
                tokens = tokens + _projected(layer.self_attn, tokens + prompt, tokens + prompt, tokens)
            tokens = layer.norm1(tokens)
            keys = places + self.position
            tokens = layer.norm2(
                tokens + self._to_places(layer.cross_attn_token_to_image, tokens + prompt, keys, places)
            )
            tokens = layer.norm3(tokens + layer.mlp(tokens))
            places = layer.norm4(
                places + self._to_tokens(layer.cross_attn_image_to_token, keys, tokens + prompt, tokens)
            )
        last = transformer.final_attn_token_to_image
        tokens = tokens + self._to_places(last, tokens + prompt, places + self.position, places)
        return cast(Tensor, transformer.norm_final_attn(tokens)), places


class Sam2PlacesDecoder(SamPlacesDecoder):
    """The same for SAM 2's decoder, which adds finer features while it upscales, and says whether the object is there.

    Source: facebookresearch/sam2, ``sam2/modeling/sam/mask_decoder.py``.
    """

    def forward(  # type: ignore[override]
        self, features: Tensor, sparse: Tensor, dense: Tensor, finest: Tensor, finer: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return all masks, their scores, their tokens, and the logit of whether the object is there.

        Args:
            features: See :class:`PlacesDecoder`, likewise ``sparse`` and ``dense``.
            sparse: See there.
            dense: See there.
            finest: ``(1, 4h, 4w, C / 8)``.
            finer: ``(1, 2h, 2w, C / 4)``.
        """
        decoder: Any = self.decoder
        own = [decoder.obj_score_token.weight, decoder.iou_token.weight, decoder.mask_tokens.weight]
        tokens, places = self._transformed(torch.cat([*own, sparse[0]]), (features + dense)[0].flatten(0, 1))
        first, norm, activation, second, last = decoder.output_upscaling
        pixels = _doubled(_four_pixels(first, places), features.shape[1:3]) + finer[0]
        pixels = activation(F.layer_norm(pixels, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        pixels = last(_doubled(_four_pixels(second, pixels.flatten(0, 1)), finer.shape[1:3]) + finest[0])
        of_masks = tokens[2 : 2 + decoder.num_mask_tokens]
        masks = (self._mask_weights(of_masks) @ pixels.flatten(0, 1).T).unflatten(1, finest.shape[1:3])
        scores, is_there = decoder.iou_prediction_head(tokens[1:2]), decoder.pred_obj_score_head(tokens[:1])
        return masks[None], scores, of_masks[None], is_there


def _heads(x: Tensor, count: int) -> Tensor:
    """Return ``(n, H * c)`` as ``(H, n, c)``."""
    return cast(Tensor, x.unflatten(-1, (count, -1)).transpose(0, 1))


def _projected(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return SAM's attention: ``(n, C)`` queries to ``(m, C)`` keys and values."""
    count = attention.num_heads
    query, key, value = (
        _heads(linear(x), count)[None]
        for linear, x in ((attention.q_proj, q), (attention.k_proj, k), (attention.v_proj, v))
    )
    found = F.scaled_dot_product_attention(query, key, value)[0]
    return cast(Tensor, attention.out_proj(found.transpose(0, 1).flatten(1)))


def _few_to_many(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return attention of few queries to many keys, projecting neither keys nor values.

    The bias of the keys' projection adds the same to all scores of a query, and so changes nothing.
    """
    count = attention.num_heads
    query = _heads(attention.q_proj(q), count)  # (H, n, c)
    of_keys = attention.k_proj.weight.unflatten(0, (count, -1))  # (H, c, C)
    of_values = attention.v_proj.weight.unflatten(0, (count, -1)).transpose(1, 2)  # (H, C, c)
    directions = (query @ of_keys).flatten(0, 1) / query.shape[-1] ** 0.5  # (H * n, C)
    shares = (directions @ k.T).softmax(-1)  # (H * n, m)
    found = (shares @ v).unflatten(0, (count, -1)) @ of_values  # (H, n, c)
    return cast(Tensor, attention.out_proj(found.transpose(0, 1).flatten(1) + attention.v_proj.bias))


def _many_to_few(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return attention of many queries to few keys, projecting neither the queries nor what they find."""
    count = attention.num_heads
    key, value = _heads(attention.k_proj(k), count), _heads(attention.v_proj(v), count)  # (H, m, c)
    of_queries = attention.q_proj.weight.unflatten(0, (count, -1))  # (H, c, C)
    bias = attention.q_proj.bias.unflatten(0, (count, -1))[:, :, None]  # (H, c, 1)
    of_outputs = attention.out_proj.weight.unflatten(1, (count, -1)).permute(1, 2, 0)  # (H, c, C)
    scale = key.shape[-1] ** -0.5
    directions = (key @ of_queries).flatten(0, 1) * scale  # (H * m, C)
    scores = q @ directions.T + (key @ bias).flatten() * scale  # (n, H * m)
    shares = scores.unflatten(-1, (count, -1)).softmax(-1).flatten(1)
    return cast(Tensor, shares @ (value @ of_outputs).flatten(0, 1) + attention.out_proj.bias)


def _upscaled(upscaling: nn.Sequential, places: Tensor) -> Tensor:
    """Return the features of each place's 4 x 4 pixels, together: ``(L, C)`` to ``(L * 16, C / 8)``."""
    first, norm, activation, second, last = cast("Any", upscaling)
    normed = F.layer_norm(_four_pixels(first, places), norm.weight.shape, norm.weight, norm.bias, norm.eps)
    return cast(Tensor, last(_four_pixels(second, activation(normed))))


def _four_pixels(convolution: nn.ConvTranspose2d, places: Tensor) -> Tensor:
    """Apply a transposed convolution of size and stride 2: ``(L, C)`` to ``(L * 4, c)``, a place's 2 x 2 together."""
    weight = convolution.weight.permute(2, 3, 1, 0).flatten(0, 2)  # (2 * 2 * c, C)
    bias = cast(Tensor, convolution.bias)
    return F.linear(places, weight, bias.repeat(4)).view(-1, len(bias))


def _doubled(pixels: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Convert the values ``(h * w * 4, C)`` of places' 2 x 2 pixels to an image ``(2h, 2w, C)``."""
    height, width = size
    nested = pixels.view(height, width, 2, 2, -1)  # rows and columns of places, then of halves
    return nested.transpose(1, 2).reshape(2 * height, 2 * width, -1)


def _in_image_order(pixels: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """Convert the values ``(h * w * 16, M)`` of places' pixels to images ``(M, 4h, 4w)``."""
    height, width = size
    nested = pixels.view(height, width, 2, 2, 2, 2, -1)  # rows and columns of places, then of halves, then of quarters
    return nested.permute(6, 0, 2, 4, 1, 3, 5).reshape(-1, 4 * height, 4 * width)
