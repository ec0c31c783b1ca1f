"""Masks of a model with a memory are compared also where it follows an object."""

import pytest
import torch

from lib.sam.agreement import compare_masks, section_images
from lib.sam.predictor import Predictor
from lib.sam.runtimes.openvino_runtime import OpenVinoRuntime


class Forgetful(OpenVinoRuntime):
    """Its memory differs, and nothing else."""

    def compute(self, network: str, *inputs: torch.Tensor) -> torch.Tensor:
        return torch.randn_like(super().compute(network, *inputs))


@pytest.mark.slow
def test_a_memory_that_differs_is_noticed(medsam2: Predictor):
    runtime = medsam2.runtime
    assert isinstance(runtime, OpenVinoRuntime)
    images = section_images(1, side=64)
    same = compare_masks(medsam2, medsam2, images, points_per_side=1)
    assert (same.masks, same.mean_iou) == (4, 1.0), "by a point, by a box, and on two slices that are followed"
    forgetful = medsam2.with_runtime(Forgetful(runtime.folder))
    other = compare_masks(forgetful, medsam2, images, points_per_side=1)
    assert other.mean_iou < 0.99 and other.embedding_difference < 1e-6
