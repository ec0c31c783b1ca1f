import pytest
import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention

from lib.sam.runtimes.fused_attention import fuse_attention, fused_forward


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("size", [(14, 14), (8, 12)])
def test_the_fused_way_is_sam_s_own(size: tuple[int, int], positions: bool):
    torch.manual_seed(0)
    attention = Attention(64, num_heads=4, use_rel_pos=positions, input_size=size).double()
    if positions:
        torch.nn.init.normal_(attention.rel_pos_h)
        torch.nn.init.normal_(attention.rel_pos_w)
    x = torch.randn(3, *size, 64, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(fused_forward(attention, x), attention(x), rtol=1e-12, atol=1e-12)


def test_an_encoder_with_all_its_attention_fused_gives_the_same(vit: ImageEncoderViT):
    image = torch.randn(1, 3, 256, 256)
    with torch.inference_mode():
        before = vit(image)
        assert fuse_attention(vit) == 3
        after = vit(image)
    assert float((after - before).norm() / before.norm()) < 1e-5
