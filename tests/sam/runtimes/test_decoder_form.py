"""The decoder's form for a CPU against ``segment_anything``'s decoder, with the same weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from segment_anything.modeling import MaskDecoder, TwoWayTransformer
from torch import nn

from lib.sam.runtimes.decoder_form import MAX_FOLDED_TOKENS, decoder_forms
from lib.sam.runtimes.openvino_ir import DECODER, DECODER_MANY, NetworkKey, convert
from lib.sam.runtimes.openvino_runtime import OpenVinoRuntime
from lib.sam.runtimes.runtime import Networks, RuntimeUnavailableError

CHANNELS, SIDE = 32, 6


@pytest.fixture
def decoder() -> MaskDecoder:
    """SAM's own, small, with weights of the size of trained ones."""
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=CHANNELS, mlp_dim=48, num_heads=4)
    made = MaskDecoder(num_multimask_outputs=3, transformer=transformer, transformer_dim=CHANNELS)
    for values in made.parameters():
        nn.init.normal_(values, std=0.3)
    return made.eval().requires_grad_(False)


def prompts(tokens: int, *, with_mask: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens, and a dense prompt that differs from place to place only for an earlier mask."""
    dense = torch.randn(1, CHANNELS, SIDE, SIDE) if with_mask else torch.randn(1, CHANNELS, 1, 1)
    return torch.randn(1, tokens, CHANNELS), dense.expand(-1, -1, SIDE, SIDE)


@pytest.mark.parametrize("with_mask", [False, True])
@pytest.mark.parametrize("tokens", [0, 1, 3, 40])
def test_each_form_gives_what_segment_anything_gives(decoder: MaskDecoder, tokens: int, with_mask: bool):
    image_pe, features = torch.randn(2, 1, CHANNELS, SIDE, SIDE)
    sparse, dense = prompts(tokens, with_mask=with_mask)
    expected = decoder.predict_masks(features, image_pe, sparse, dense)
    for form in decoder_forms(decoder, image_pe):
        assert form is not None
        found = form(features.permute(0, 2, 3, 1), sparse, dense.permute(0, 2, 3, 1))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_form_for_many_tokens_runs_from_the_first_token_too_many(tmp_path: Path, decoder: MaskDecoder):
    image_pe, features = torch.randn(2, 1, CHANNELS, SIDE, SIDE)
    encoder = nn.Conv2d(3, CHANNELS, 8, stride=8)
    folder = convert(tmp_path, NetworkKey("sam_test", "a" * 64), Networks(encoder, decoder, image_pe, 48))
    few, one_more = (prompts(MAX_FOLDED_TOKENS + more, with_mask=False) for more in (0, 1))
    runtime, without_many = OpenVinoRuntime(folder), OpenVinoRuntime(folder)
    for sparse, dense in (few, one_more):
        masks, scores = runtime.decode([features], sparse, dense)
        expected = decoder.predict_masks(features, image_pe, sparse, dense)
        np.testing.assert_allclose(masks, expected[0], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(scores, expected[1], rtol=1e-3, atol=1e-3)
    (folder / DECODER).unlink()  # is loaded already; the other is loaded when it is needed
    (folder / DECODER_MANY).unlink()
    without_many.decode([features], *few)
    with pytest.raises(RuntimeUnavailableError):
        without_many.decode([features], *one_more)
