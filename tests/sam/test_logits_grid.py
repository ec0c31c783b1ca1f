"""The grid of a mask's logits: what a lasso says of it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from lib.sam.logits_grid import LogitsGrid


@pytest.mark.parametrize("size", [(256, 256), (300, 200), (37, 512)], ids=["square", "tall", "wide"])
def test_what_a_lasso_encloses_bounds_the_answer_and_its_core_belongs_to_it(size):
    height, width = size
    side = 256
    scale = min(side / height, side / width)
    grid = LogitsGrid(size, (scale, scale), side)
    rows, columns = np.mgrid[:height, :width]
    area = np.hypot((rows - height / 2) / height, (columns - width / 2) / width) < 0.3
    everywhere, nowhere = (np.full((side, side), value, np.float32) for value in (5.0, -5.0))
    beyond = grid.mask(grid.enclosed(everywhere, area, with_core=True))
    core = grid.mask(grid.enclosed(nowhere, area, with_core=True))
    small = np.asarray(Image.fromarray(area).resize(grid.shape[::-1], Image.Resampling.NEAREST))
    assert (beyond | small).sum() == beyond.sum(), "all that is enclosed can be the object"
    assert not (beyond & ~ndimage.binary_dilation(small, np.ones((3, 3)))).any(), "nothing beyond one cell"
    assert core.any() and not (core & ~small).any() and core.sum() < small.sum()
    assert not grid.mask(grid.enclosed(nowhere, area, with_core=False)).any()
