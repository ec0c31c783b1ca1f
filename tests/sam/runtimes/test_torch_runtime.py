import pytest
import torch
from segment_anything.modeling import ImageEncoderViT

from lib.base.clock import PreemptedError
from lib.sam.runtimes.fused_attention import fuse_attention
from lib.sam.runtimes.runtime import RuntimeUnavailableError
from lib.sam.runtimes.torch_runtime import TorchRuntime

CPU = torch.device("cpu")


@pytest.mark.parametrize(("precision", "bound"), [("bfloat16", 0.02), ("float16", 0.003)])
@pytest.mark.parametrize("fused", [False, True])
def test_reduced_precision_is_as_near_as_its_bits_allow(vit: ImageEncoderViT, precision, bound, fused):
    """The arithmetic of a GPU, on the CPU: bounds on the relative L2 distance from float32."""
    image = torch.randn(1, 3, 256, 256)
    exact = TorchRuntime(vit, None, CPU).encode(image)[0]
    if fused:
        fuse_attention(vit)
    features = TorchRuntime(vit, None, CPU, precision).encode(image)[0]
    assert features.dtype == torch.float32
    difference = float((features - exact).norm() / exact.norm())
    assert 1e-6 < difference < bound


def test_each_precision_has_a_key_of_its_own(vit: ImageEncoderViT):
    assert len({TorchRuntime(vit, None, CPU, precision).key for precision in ("float32", "bfloat16", "float16")}) == 3
    with pytest.raises(RuntimeUnavailableError, match="not int8"):
        TorchRuntime(vit, None, CPU, "int8")


def test_an_encode_can_be_given_up_between_its_blocks(vit: ImageEncoderViT):
    runtime = TorchRuntime(vit, None, CPU)
    image = torch.randn(1, 3, 256, 256)
    asked: list[int] = []

    def at_the_third() -> bool:
        asked.append(1)
        return len(asked) == 3

    with pytest.raises(PreemptedError):
        runtime.encode(image, at_the_third)
    assert len(asked) == 3
    assert runtime.encode(image)[0].shape == (1, 32, 16, 16), "the next one is not stopped"


@pytest.mark.long
def test_a_compiled_encoder_gives_the_same(vit: ImageEncoderViT):
    image = torch.randn(1, 3, 256, 256)
    exact = TorchRuntime(vit, None, CPU).encode(image)[0]
    try:
        compiled = TorchRuntime(vit, None, CPU, compiled=True).encode(image)[0]
    except RuntimeError as error:
        if "compiler" not in str(error).lower():
            raise
        pytest.skip(f"PyTorch finds no C++ compiler here: {str(error).splitlines()[0]}")
    assert float((compiled - exact).norm() / exact.norm()) < 1e-5
